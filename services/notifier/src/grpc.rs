//! The service on the wire: validates and converts, nothing else.

use std::sync::Arc;

use proto::{
    error::v1::ErrorReason,
    notifier::v1::{
        self as pb, email_report_service_server::EmailReportService,
        notifier_service_server::NotifierService,
    },
};
use runtime::{
    auth::{UserCaller, user_caller},
    status::ApiError,
};
use tonic::{Request, Response, Status, async_trait};

use crate::{Service, model::DeviceTarget, store::Updated, validate};

/// The service, as tonic wants it.
#[derive(Clone)]
pub(crate) struct Grpc {
    service: Arc<Service>,
}

impl Grpc {
    /// Speaks for this service.
    pub(crate) const fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// The caller, if he does not call too often.
    fn caller<T>(&self, request: &Request<T>) -> Result<UserCaller, ApiError> {
        let caller = user_caller(request)?;
        self.service.allow(caller.user_id)?;
        Ok(caller)
    }
}

#[async_trait]
impl NotifierService for Grpc {
    async fn register_push_target(
        &self,
        request: Request<pb::RegisterPushTargetRequest>,
    ) -> Result<Response<pb::RegisterPushTargetResponse>, Status> {
        let caller = self.caller(&request)?;
        let target = validate::target(request.into_inner().target, &self.service.providers)?;
        let target = DeviceTarget {
            user: caller.user_id,
            device: caller.device_id,
            target,
        };
        let now = self.service.clock.now_unix_ms();
        let put = self.service.store.put_target(target, now).await;
        if !put.map_err(ApiError::from)? {
            let message = "the device was logged out";
            return Err(ApiError::new(ErrorReason::DeviceRevoked, message).into());
        }
        Ok(Response::new(pb::RegisterPushTargetResponse {}))
    }

    async fn remove_push_target(
        &self,
        request: Request<pb::RemovePushTargetRequest>,
    ) -> Result<Response<pb::RemovePushTargetResponse>, Status> {
        let caller = self.caller(&request)?;
        let store = &self.service.store;
        store
            .remove_target(caller.user_id, caller.device_id)
            .await
            .map_err(ApiError::from)?;
        Ok(Response::new(pb::RemovePushTargetResponse {}))
    }

    async fn get_push_setup(
        &self,
        request: Request<pb::GetPushSetupRequest>,
    ) -> Result<Response<pb::GetPushSetupResponse>, Status> {
        self.caller(&request)?;
        let providers = &self.service.providers;
        let web_push_key = providers.web_push.as_ref();
        let web_push_key =
            web_push_key.map_or_else(Vec::new, |(web_push, _)| web_push.public_key().to_vec());
        Ok(Response::new(pb::GetPushSetupResponse {
            web_push_key,
            apns: providers.apns.is_some(),
            fcm: providers.fcm.is_some(),
            email: self.service.mail.is_some(),
        }))
    }

    async fn get_preferences(
        &self,
        request: Request<pb::GetPreferencesRequest>,
    ) -> Result<Response<pb::GetPreferencesResponse>, Status> {
        let user = self.caller(&request)?.user_id;
        let store = &self.service.store;
        let preferences = store.preferences(vec![user]).await;
        let preferences = preferences.map_err(ApiError::from)?;
        let email = store.email(user).await.map_err(ApiError::from)?;
        Ok(Response::new(pb::GetPreferencesResponse {
            preferences: preferences.first().map(validate::preferences_pb),
            email: email.map(validate::email_pb),
        }))
    }

    async fn update_preferences(
        &self,
        request: Request<pb::UpdatePreferencesRequest>,
    ) -> Result<Response<pb::UpdatePreferencesResponse>, Status> {
        let user = self.caller(&request)?.user_id;
        let request = request.into_inner();
        let if_version = request.if_version;
        let change = validate::preferences_change(request)?;
        let store = &self.service.store;
        let next = self.service.next_digest();
        let updated = store.update_preferences(user, change, if_version, next);
        match updated.await.map_err(ApiError::from)? {
            Updated::Changed(preferences) => Ok(Response::new(pb::UpdatePreferencesResponse {
                preferences: Some(validate::preferences_pb(&preferences)),
            })),
            Updated::OtherVersion => Err(ApiError::field(
                ErrorReason::PreferencesVersionChanged,
                "if_version",
                "the preferences are not at this version",
            )
            .into()),
        }
    }
    async fn set_email_address(
        &self,
        request: Request<pb::SetEmailAddressRequest>,
    ) -> Result<Response<pb::SetEmailAddressResponse>, Status> {
        let user = self.caller(&request)?.user_id;
        let address = request.into_inner().address;
        let email = self.service.set_email(user, &address).await?;
        Ok(Response::new(pb::SetEmailAddressResponse {
            email: Some(validate::email_pb(email)),
        }))
    }

    async fn confirm_email_address(
        &self,
        request: Request<pb::ConfirmEmailAddressRequest>,
    ) -> Result<Response<pb::ConfirmEmailAddressResponse>, Status> {
        let user = self.caller(&request)?.user_id;
        let code = request.into_inner().code;
        let email = self.service.confirm_email(user, &code).await?;
        Ok(Response::new(pb::ConfirmEmailAddressResponse {
            email: Some(validate::email_pb(email)),
        }))
    }

    async fn remove_email_address(
        &self,
        request: Request<pb::RemoveEmailAddressRequest>,
    ) -> Result<Response<pb::RemoveEmailAddressResponse>, Status> {
        let user = self.caller(&request)?.user_id;
        let removed = self.service.store.remove_email(user).await;
        removed.map_err(ApiError::from)?;
        Ok(Response::new(pb::RemoveEmailAddressResponse {}))
    }
}

#[async_trait]
impl EmailReportService for Grpc {
    async fn report_emails(
        &self,
        request: Request<pb::ReportEmailsRequest>,
    ) -> Result<Response<pb::ReportEmailsResponse>, Status> {
        let reports = request.into_inner().reports;
        let disabled = self.service.report_emails(reports).await?;
        Ok(Response::new(pb::ReportEmailsResponse {
            disabled: u32::try_from(disabled).unwrap_or(u32::MAX),
        }))
    }
}
