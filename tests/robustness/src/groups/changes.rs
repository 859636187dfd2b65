//! Changes of groups, asked for by hand: the names of requests are ours, so that the same change can be
//! asked for again, from another node too.

use std::{sync::Arc, time::Duration};

use messenger_client::{Client, Error, ErrorKind};
use proto::groups::v1::{
    AddMembersRequest, CreateGroupRequest, Group, GroupSettings, JoinGroupRequest,
    LeaveGroupRequest, RemoveMemberRequest, Role as ProtoRole, SetRoleRequest, UpdateGroupRequest,
    group_service_client::GroupServiceClient,
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::traffic::GroupStage;
use crate::{
    history::{
        No,
        groups::{Answer, Asked, Call, GroupRecord, Role},
    },
    plan::DeviceRole,
    traffic::reason,
};

/// How long one try may take: the server waits up to 5 s for the place of the event.
const TRY_DEADLINE: Duration = Duration::from_secs(8);
/// Tries of one change.
const TRIES_MAX: usize = 6;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(400);

/// Where one device asks for changes.
pub(super) struct Office {
    stage: Arc<GroupStage>,
    role: DeviceRole,
    client: Client,
}

/// What one try is answered with: seq, version, and the group where there is one.
type Answered = Result<(u64, u64, Option<Group>), Status>;

impl Office {
    pub(super) fn new(stage: &Arc<GroupStage>, role: DeviceRole, client: Client) -> Self {
        Self {
            stage: stage.clone(),
            role,
            client,
        }
    }

    /// Asks until the answer is definite, or often enough; `again` once more after that. Gives the first
    /// definite answer, and the group's id.
    pub(super) async fn ask(
        &self,
        group: No,
        asked: Asked,
        again: bool,
    ) -> (Answer, Option<String>) {
        let recorder = &self.stage.recorder;
        let call = Call {
            call: recorder.next_group_call(),
            t: recorder.now(),
            user: self.role.user,
            group,
            asked,
            request_id: Uuid::now_v7(),
        };
        recorder.add_group(GroupRecord::Call(call.clone()));
        let nodes = self.nodes();
        let mut last = Answer::Unknown("no node".to_owned());
        for (tried, node) in (0..TRIES_MAX).zip(nodes.iter().cycle()) {
            let (answer, error) = match self.once(node, &call).await {
                Ok((seq, version, made)) => {
                    self.answer(&call, Answer::Done { seq, version });
                    if again {
                        self.again(&nodes[(tried + 1) % nodes.len()], &call).await;
                    }
                    return (
                        Answer::Done { seq, version },
                        made.map(|made| made.group_id),
                    );
                }
                Err(error) => (reason(&error), error),
            };
            self.stage
                .failed(self.role.number, name(&call.asked), &error);
            let is_final = error.kind() == ErrorKind::Rejected;
            last = match is_final && tried == 0 {
                true => Answer::Refused(answer),
                // An earlier try may be carried out, or already be.
                false => Answer::Unknown(answer),
            };
            if is_final {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.answer(&call, last.clone());
        (last, None)
    }

    async fn again(&self, node: &str, call: &Call) {
        let answer = match self.once(node, call).await {
            Ok((seq, version, _)) => Answer::Done { seq, version },
            Err(error) => {
                let call = format!("{} again", name(&call.asked));
                return self.stage.failed(self.role.number, &call, &error);
            }
        };
        self.answer(call, answer);
    }

    fn answer(&self, call: &Call, answer: Answer) {
        if let Answer::Done { seq, .. } = answer {
            let user = self.stage.user(self.role.user);
            user.knowledge.lock().holds(call.group, seq);
        }
        self.stage.recorder.add_group(GroupRecord::Answer {
            t: self.stage.recorder.now(),
            call: call.call,
            answer,
        });
    }

    /// Where nodes are: those of a cluster, or the ways to the only one.
    fn nodes(&self) -> Vec<String> {
        let device = usize::from(self.role.number);
        let ways = [device, device + 1].map(|way| self.stage.deployment.url(way));
        let mut nodes: Vec<String> = ways
            .iter()
            .flat_map(|urls| urls.split(',').map(str::to_owned))
            .collect();
        let mut seen = Vec::new();
        nodes.retain(|node| {
            let is_new = !seen.contains(node);
            seen.push(node.clone());
            is_new
        });
        nodes
    }

    async fn once(&self, node: &str, call: &Call) -> Result<(u64, u64, Option<Group>), Error> {
        let token = self.client.access_token().await?;
        let endpoint = Endpoint::from_shared(node.to_owned())
            .map_err(|error| Error::Config(error.to_string()))?
            .connect_timeout(TRY_DEADLINE);
        let channel = endpoint.connect_lazy();
        let answered = tokio::time::timeout(TRY_DEADLINE, self.carry(channel, &token, call));
        match answered.await {
            Ok(answered) => answered.map_err(Error::from),
            Err(_) => Err(Error::Timeout(TRY_DEADLINE)),
        }
    }

    async fn carry(&self, channel: Channel, token: &str, call: &Call) -> Answered {
        let mut service = GroupServiceClient::new(channel);
        let request_id = call.request_id.to_string();
        let made = self.stage.group(call.group);
        let group_id = made.map(|made| made.group_id.clone()).unwrap_or_default();
        let id = |user: No| self.stage.user(user).id().to_owned();
        let update = |name, settings| UpdateGroupRequest {
            request_id: request_id.clone(),
            group_id: group_id.clone(),
            name,
            settings,
            ..UpdateGroupRequest::default()
        };
        match &call.asked {
            Asked::Create(users) => {
                let request = CreateGroupRequest {
                    request_id,
                    name: format!("group {}", call.group),
                    user_ids: users.iter().map(|user| id(*user)).collect(),
                    ..CreateGroupRequest::default()
                };
                let answer = service.create_group(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
            Asked::Add(user) => {
                let request = AddMembersRequest {
                    request_id,
                    group_id,
                    if_version: 0,
                    user_ids: vec![id(*user)],
                };
                let answer = service.add_members(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
            Asked::Remove(user) => {
                let request = RemoveMemberRequest {
                    request_id,
                    group_id,
                    if_version: 0,
                    user_id: id(*user),
                };
                let answer = service.remove_member(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
            Asked::Leave => {
                let request = LeaveGroupRequest {
                    request_id,
                    group_id,
                };
                let answer = service.leave_group(with(token, request)?).await?;
                Ok(answered(answer.into_inner().seq, None))
            }
            Asked::Join => {
                let token_of_it = made.map(|made| made.token.clone()).unwrap_or_default();
                let request = JoinGroupRequest {
                    request_id,
                    token: token_of_it,
                };
                let answer = service.join_group(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
            Asked::SetRole(user, role) => {
                let role = match role {
                    Role::Admin => ProtoRole::Admin,
                    _ => ProtoRole::Member,
                };
                let request = SetRoleRequest {
                    request_id,
                    group_id,
                    if_version: 0,
                    user_id: id(*user),
                    role: role.into(),
                };
                let answer = service.set_role(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
            Asked::Announcement(announcement) => {
                let settings = GroupSettings {
                    announcement: *announcement,
                    ..GroupSettings::default()
                };
                let request = update(None, Some(settings));
                let answer = service.update_group(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
            Asked::Rename(name) => {
                let request = update(Some(name.clone()), None);
                let answer = service.update_group(with(token, request)?).await?;
                let answer = answer.into_inner();
                Ok(answered(answer.seq, answer.group))
            }
        }
    }
}

fn answered(seq: u64, group: Option<Group>) -> (u64, u64, Option<Group>) {
    let version = group.as_ref().map_or(0, |group| group.version);
    (seq, version, group)
}

fn with<T>(token: &str, message: T) -> Result<Request<T>, Status> {
    let value = format!("Bearer {token}");
    let value = value
        .parse()
        .map_err(|_| Status::internal("the access token is not a token"))?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", value);
    request.set_timeout(TRY_DEADLINE);
    Ok(request)
}

/// The name of the call, for reports.
fn name(asked: &Asked) -> &'static str {
    match asked {
        Asked::Create(_) => "create_group",
        Asked::Add(_) => "add_members",
        Asked::Remove(_) => "remove_member",
        Asked::Leave => "leave_group",
        Asked::Join => "join_group",
        Asked::SetRole(..) => "set_role",
        Asked::Announcement(_) | Asked::Rename(_) => "update_group",
    }
}
