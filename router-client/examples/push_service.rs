//! Tells an account something, twice: reliably through the router, and at once to every session it has.
//!
//! `cargo run --example push_service -- 127.0.0.1:7300 shop alice "your parcel is on its way"`

use std::time::Duration;

use moor_router_client::Error;
use moor_router_client::blocking::Router;

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |usual: &str| arguments.next().unwrap_or_else(|| usual.to_owned());
    let address = argument("127.0.0.1:7300");
    let app = argument("shop");
    let account = argument("alice");
    let text = argument("your parcel is on its way");

    let mut router = Router::connect(&address, None)?;
    println!("connected to {}", router.welcome().node);
    router.subscribe(&app)?;

    // Stored, delivered to every device of the account, now or when it comes back.
    let sent = router.send(&app, "orders", &account, None, text.as_bytes())?;
    println!("stored for {account} as number {}", sent.sync_id);

    // Not stored: straight to the sessions that are there now.
    let found = router.lookup(&app, &account)?;
    for location in &found.sessions {
        match router.push_to(location, "orders", b"typing") {
            Ok(_) => println!("pushed to {} at {}", location.device, location.gateway),
            Err(Error::NotHere) => println!("{} has just left", location.device),
            Err(error) => return Err(error),
        }
    }

    while let Some(receipt) = router.next_receipt(Duration::from_secs(2))? {
        println!("{} has everything up to number {}", receipt.device, receipt.sync_id);
    }
    Ok(())
}
