use proto::{
    error::v1::ErrorReason as R,
    profile::v1::{
        BatchGetProfilesRequest, GetProfileRequest, Profile, RegisterRequest,
        SearchProfilesRequest, SearchProfilesResponse, UpdateProfileRequest,
        get_profile_request::By,
    },
};
use runtime::{ids::UserId, status::ApiError};

use super::harness::*;

struct Ann {
    server: Server,
    token: String,
    profile: Profile,
}

async fn ann() -> Ann {
    let server = Server::start().await;
    let ann = server.register("ann").await;
    Ann {
        server,
        token: ann.tokens.unwrap().access_token,
        profile: ann.profile.unwrap(),
    }
}

impl Ann {
    async fn get(&self, by: Option<By>) -> Result<Profile, ApiError> {
        let request = with_token(&self.token, GetProfileRequest { by });
        let answer = read(self.server.profiles().get_profile(request).await)?;
        Ok(answer.profile.unwrap())
    }

    async fn update(&self, name: Option<&str>, status: Option<&str>) -> Result<Profile, ApiError> {
        let request = UpdateProfileRequest {
            display_name: name.map(str::to_owned),
            status_text: status.map(str::to_owned),
            picture_receipt: None,
        };
        let request = with_token(&self.token, request);
        let answer = read(self.server.profiles().update_profile(request).await)?;
        Ok(answer.profile.unwrap())
    }

    async fn batch(&self, user_ids: Vec<String>) -> Result<Vec<Profile>, ApiError> {
        let request = with_token(&self.token, BatchGetProfilesRequest { user_ids });
        let answer = read(self.server.profiles().batch_get_profiles(request).await)?;
        Ok(answer.profiles)
    }

    async fn search(
        &self,
        prefix: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<SearchProfilesResponse, ApiError> {
        let request = SearchProfilesRequest {
            prefix: prefix.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
        };
        let request = with_token(&self.token, request);
        read(self.server.profiles().search_profiles(request).await)
    }
}

#[tokio::test]
async fn a_profile_is_found_by_id_and_by_name() {
    let ann = ann().await;
    let by_id = By::UserId(ann.profile.user_id.clone());
    assert_eq!(ann.get(Some(by_id)).await.unwrap(), ann.profile);
    let by_name = By::Username("ANN".to_owned());
    assert_eq!(ann.get(Some(by_name)).await.unwrap(), ann.profile);
    for (by, reason, field) in [
        (None, R::FieldRequired, "by"),
        (Some(By::UserId(String::new())), R::FieldRequired, "user_id"),
        (
            Some(By::UserId("x".to_owned())),
            R::FieldMalformed,
            "user_id",
        ),
        (
            Some(By::Username("a b".to_owned())),
            R::FieldMalformed,
            "username",
        ),
        (Some(By::Username("nobody".to_owned())), R::UserNotFound, ""),
        (
            Some(By::UserId(UserId::generate().to_string())),
            R::UserNotFound,
            "",
        ),
    ] {
        let error = ann.get(by).await.unwrap_err();
        assert_eq!((error.reason, error.field.as_str()), (reason, field));
    }
    // A service asks, too.
    let bearer = ann.server.service.bearer().unwrap();
    let token = bearer
        .to_str()
        .unwrap()
        .trim_start_matches("Bearer ")
        .to_owned();
    let service = Ann { token, ..ann };
    let by_id = By::UserId(service.profile.user_id.clone());
    assert!(service.get(Some(by_id)).await.is_ok());
}

#[tokio::test]
async fn a_batch_has_those_that_exist_in_the_order_asked() {
    let ann = ann().await;
    let bob = ann.server.register("bob").await.profile.unwrap();
    let nobody = UserId::generate().to_string();
    let (a, b) = (ann.profile.user_id.clone(), bob.user_id.clone());
    let found = ann
        .batch(vec![b.clone(), nobody, a.clone(), b])
        .await
        .unwrap();
    assert_eq!(found, [bob, ann.profile.clone()]);
    assert_eq!(ann.batch(vec![a.clone(); 500]).await.unwrap().len(), 1);
    for (ids, reason, field) in [
        (vec![], R::FieldRequired, "user_ids"),
        (vec![a.clone(); 501], R::FieldOutOfRange, "user_ids"),
        (vec![a, "x".to_owned()], R::FieldMalformed, "user_ids[1]"),
    ] {
        let error = ann.batch(ids).await.unwrap_err();
        assert_eq!((error.reason, error.field.as_str()), (reason, field));
    }
}

#[tokio::test]
async fn a_user_changes_what_is_given_and_nothing_else() {
    let ann = ann().await;
    let changed = ann.update(Some("  Ann Lee "), None).await.unwrap();
    assert_eq!(
        (changed.display_name.as_str(), changed.version),
        ("Ann Lee", 2)
    );
    let changed = ann.update(None, Some("at sea")).await.unwrap();
    assert_eq!(changed.display_name, "Ann Lee");
    assert_eq!(
        (changed.status_text.as_str(), changed.version),
        ("at sea", 3)
    );
    let cleared = ann.update(None, Some("")).await.unwrap();
    assert_eq!((cleared.status_text.as_str(), cleared.version), ("", 4));
    for (name, status, reason, field) in [
        (Some(""), None, R::FieldRequired, "display_name"),
        (Some("a\tb"), None, R::FieldMalformed, "display_name"),
        (None, Some("a\nb"), R::FieldMalformed, "status_text"),
        (None, Some(&*"x".repeat(141)), R::TextTooLong, "status_text"),
    ] {
        let error = ann.update(name, status).await.unwrap_err();
        assert_eq!((error.reason, error.field.as_str()), (reason, field));
    }
    assert_eq!(ann.update(None, None).await.unwrap(), cleared);
}

#[tokio::test]
async fn a_search_goes_through_all_pages_and_repeats_nobody() {
    let ann = ann().await;
    let mut expected = Vec::new();
    for i in 0..55 {
        let username = format!("user{i:02}");
        let request = RegisterRequest {
            display_name: format!("Maria {i}"),
            ..registration(&username)
        };
        read(ann.server.accounts().register(request).await).unwrap();
        expected.push(username);
    }
    // By the username and by a word of the name; in the default, the smallest, the largest page.
    for (prefix, size) in [
        ("user", 0),
        ("US", 20),
        ("mar", 1),
        (" MARIA ", 50),
        ("maria", 7),
    ] {
        let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = ann.search(prefix, size, &token).await.unwrap();
            pages += 1;
            found.extend(page.profiles.into_iter().map(|p| p.username));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "{prefix}");
        let size = if size == 0 { 20 } else { size };
        assert_eq!(pages, (55 + size - 1) / size, "{prefix}");
    }
    let token = ann.search("user", 5, "").await.unwrap().next_page_token;
    for (prefix, size, token, reason, field) in [
        ("", 0, "", R::FieldRequired, "prefix"),
        ("  ", 0, "", R::FieldRequired, "prefix"),
        (&*"x".repeat(65), 0, "", R::TextTooLong, "prefix"),
        ("us\0", 0, "", R::FieldMalformed, "prefix"),
        ("us", -1, "", R::FieldOutOfRange, "page_size"),
        ("us", 51, "", R::FieldOutOfRange, "page_size"),
        ("us", 0, "nonsense", R::PageTokenInvalid, "page_token"),
        // A token of another search.
        ("mar", 0, token.as_str(), R::PageTokenInvalid, "page_token"),
    ] {
        let error = ann.search(prefix, size, token).await.unwrap_err();
        assert_eq!((error.reason, error.field.as_str()), (reason, field));
    }
    assert_eq!(ann.search("nobody", 0, "").await.unwrap().profiles, []);
}
