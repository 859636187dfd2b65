use super::*;

fn credentials(access: &str) -> Credentials {
    Credentials {
        user_id: "u".to_owned(),
        username: "ada".to_owned(),
        device_id: "d".to_owned(),
        access_token: access.to_owned(),
        access_expires_unix_ms: 7,
        refresh_token: "secret-refresh".to_owned(),
        refresh_expires_unix_ms: 9,
    }
}

#[tokio::test]
async fn a_token_file_gives_back_what_was_saved_and_only_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deeper").join("tokens");
    let store = FileTokens::new(&path);
    assert_eq!(store.load().await.unwrap(), None);
    store.save(&credentials("one")).await.unwrap();
    store.save(&credentials("two")).await.unwrap();
    assert_eq!(store.load().await.unwrap(), Some(credentials("two")));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    store.clear().await.unwrap();
    store.clear().await.unwrap();
    assert_eq!(store.load().await.unwrap(), None);
}

#[tokio::test]
async fn a_broken_token_file_is_an_error_and_not_a_log_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    fs::write(&path, "user_id=u\n").unwrap();
    let error = FileTokens::new(&path).load().await.unwrap_err();
    assert!(matches!(error, Error::Storage(_)));
}

#[test]
fn credentials_show_no_token() {
    let shown = format!("{:?}", credentials("secret-access"));
    assert!(!shown.contains("secret"), "{shown}");
}
