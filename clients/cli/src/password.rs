//! Where a password comes from.

use std::{env, io};

use anyhow::{Context, bail};
use console::Term;

use crate::args::Password;

/// Asked once, or twice where a typing error would lock a person out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Once,
    Twice,
}

/// From the standard input, MESSENGER_PASSWORD, or the person at the terminal, who does not see it.
pub(crate) fn obtain(from: &Password, ask: Ask) -> anyhow::Result<String> {
    if from.password_stdin {
        let mut line = String::new();
        io::stdin()
            .read_line(&mut line)
            .context("cannot read the password")?;
        let password = line.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            bail!("the standard input has no password in its first line");
        }
        return Ok(password);
    }
    if let Ok(password) = env::var("MESSENGER_PASSWORD") {
        return Ok(password);
    }
    let terminal = Term::stderr();
    if !terminal.is_term() {
        bail!("no terminal to ask for the password: use --password-stdin or MESSENGER_PASSWORD");
    }
    let question = |text: &str| -> anyhow::Result<String> {
        terminal.write_str(text)?;
        terminal
            .read_secure_line()
            .context("cannot read the password")
    };
    let password = question("Password: ")?;
    if ask == Ask::Twice && question("The same again: ")? != password {
        bail!("the two passwords differ");
    }
    Ok(password)
}
