//! Answers every message with its own text, once, also across restarts.
//!
//! ```text
//! cargo run -p messenger-client --example echo_bot -- http://127.0.0.1:7400 echo-bot a-password
//! ```

use messenger_client::{
    Client, ErrorReason, Event, FileTokens, LogIn, NewAccount, Options, Result, SqliteCache,
};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (server, username, password) = (
        next("http://127.0.0.1:7400"),
        next("echo-bot"),
        next("a long password"),
    );
    let client = Client::builder(server)
        .tokens(FileTokens::new(format!("{username}.tokens")))
        .user_agent("echo-bot/1")
        .build()?;
    if client.credentials().await.is_err() {
        log_in(&client, &username, &password).await?;
    }

    let cache = SqliteCache::open(format!("{username}.cache")).await?;
    let options = Options::default().cache(cache);
    let (session, mut events) = client.connect(options).await?;
    println!(
        "{username} is listening; its user id is {}",
        session.user_id()
    );
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) if message.sender_id != session.user_id() => {
                let id = &message.conversation_id;
                session.mark_read(id, message.watermark()).await?;
                // Queued durably: it is sent even if this program ends now.
                session.send(id, message.text).await?;
            }
            Event::Disconnected { error, retry_in } => {
                eprintln!("{error}; trying again in {retry_in:?}");
            }
            Event::Closed(error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn log_in(client: &Client, username: &str, password: &str) -> Result<()> {
    let account = NewAccount {
        username: username.to_owned(),
        password: password.to_owned(),
        ..NewAccount::default()
    };
    match client.register(account).await {
        Err(error) if error.reason() == ErrorReason::UsernameTaken => {
            let log_in = LogIn {
                username: username.to_owned(),
                password: password.to_owned(),
                ..LogIn::default()
            };
            client.log_in(log_in).await?;
        }
        registered => drop(registered?),
    }
    Ok(())
}
