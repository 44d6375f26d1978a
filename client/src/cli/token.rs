//! `moor token`: a credential for trying things out. Whoever runs an app issues them where people log in.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use moor_credentials::issue::{Grant, SigningKey, issue};
use moor_wire::identity::{check_account, check_app, check_device};

use super::{Failure, Global};

#[derive(Debug, Args)]
pub struct Token {
    /// Account that the token lets in.
    #[arg(long)]
    account: String,
    /// Only from this device; may be repeated. Default: any.
    #[arg(long)]
    device: Vec<String>,
    /// How long it is good: 90s, 15m, 12h or 30d.
    #[arg(long, default_value = "1h", value_parser = seconds)]
    expires: u64,
    /// The issuer's private key (PEM: Ed25519, P-256 or RSA), or the file with the secret of HS256.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Name of the key in the credentials file.
    #[arg(long)]
    kid: Option<String>,
    /// What the app's `issuer` is.
    #[arg(long)]
    issuer: Option<String>,
    /// What the app's `audience` is.
    #[arg(long)]
    audience: Option<String>,
}

fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a time such as 90s, 15m, 12h or 30d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

/// Prints a token.
pub fn token(token: &Token, global: &Global) -> Result<(), Failure> {
    // One for a name that no gateway takes would let nobody in.
    check_app(&global.app)?;
    check_account(&token.account)?;
    token.device.iter().try_for_each(|device| check_device(device))?;
    let content = moor_credentials::read_secret(&token.key, "a signing key")?;
    let key = SigningKey::from_file_content(&content)
        .map_err(|error| format!("{}: {error}", token.key.display()))?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let grant = Grant {
        app: global.app.clone(),
        account: token.account.clone(),
        devices: token.device.clone(),
        expires_s: now_s + token.expires,
        issued_s: Some(now_s),
        issuer: token.issuer.clone(),
        audience: token.audience.clone(),
        ..Grant::default()
    };
    let signed = issue(&key, token.kid.as_deref(), &grant)?;
    let object = serde_json::json!({ "token": signed, "expires_s": grant.expires_s });
    super::output::line(global, &signed, &object)
}

/// The credential to show: the first line of a file, or of standard input for `-`.
pub fn read_credential(path: Option<&Path>) -> Result<String, Failure> {
    let Some(path) = path else { return Ok(String::new()) };
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(path)
            .map_err(|error| format!("the credential {} cannot be read: {error}", path.display()))?
    };
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("15m"), Ok(900));
        assert_eq!(seconds("12h"), Ok(43_200));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        for wrong in ["", "1", "h", "0s", "-1s", "1w", "99999999999999999999d", "9999999999999999999d", "1é"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
