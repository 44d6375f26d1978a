//! Runs of the load harness against a gateway, on free ports, in a directory that goes away.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::step::Summary;

/// Where `cargo build --release` puts programs.
pub fn release_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("release")
}

/// Where the router of a gateway is.
#[derive(Clone, Copy)]
enum RouterPlace {
    /// In the gateway's process, as `cargo run --release` starts it.
    Embedded,
    /// In a process of its own, so that the gateway's memory is the gateway's.
    Separate,
}

/// A program that says where it listens; killed when dropped.
pub struct Program {
    child: Child,
    addresses: Value,
}

impl Program {
    /// Starts a program that was built, named from where builds put programs.
    pub fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(release_dir().join(name))
            .args(arguments)
            .args(["--announce", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let addresses: Value =
            serde_json::from_str(&line).with_context(|| format!("{name} did not say where it listens"))?;
        Ok(Self { child, addresses })
    }

    /// Where it listens.
    pub fn address(&self, name: &str) -> Result<&str> {
        self.addresses["listening"][name].as_str().with_context(|| format!("no address for {name}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both may have happened already; there is nobody left to tell.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// A gateway with its router.
struct Gateway {
    gateway: Program,
    router: Option<Program>,
    /// Goes away last.
    _data: Data,
}

/// A directory that goes away.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        // What was never made need not go.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

impl Gateway {
    fn start(workers: u32, place: RouterPlace) -> Result<Self> {
        let data = Data(std::env::temp_dir().join(format!("moor-xtask-{}", std::process::id())));
        let directory = data.0.to_str().context("the temporary directory's name is not UTF-8")?;
        let router = match place {
            RouterPlace::Embedded => None,
            RouterPlace::Separate => {
                Some(Program::start("moor-router", &["--listen", "127.0.0.1:0", "--data", directory])?)
            }
        };
        let workers = workers.to_string();
        let mut arguments =
            vec!["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        arguments.extend(["--workers", &workers]);
        match &router {
            None => arguments.extend(["--router-listen", "127.0.0.1:0", "--data", directory]),
            Some(router) => arguments.extend(["--router", router.address("router")?]),
        }
        let gateway = Program::start("moor-gateway", &arguments)?;
        Ok(Self { gateway, router, _data: data })
    }

    /// `moor-bench SUB` with this gateway's addresses; returns its figures.
    ///
    /// A harness that could not keep up says nothing of the gateway: it is given two more attempts.
    fn bench(&self, sub: &str, arguments: &[&str]) -> Result<Value> {
        let json = std::env::temp_dir().join(format!("moor-xtask-{}.json", std::process::id()));
        let mut command = Command::new(release_dir().join("moor-bench"));
        command
            .args([sub, "--target", self.gateway.address("clients")?])
            .args(["--admin", &format!("http://{}", self.gateway.address("admin")?)])
            .args(arguments)
            .arg("--json")
            .arg(&json);
        for attempts_left in (0..HARNESS_ATTEMPTS).rev() {
            eprintln!("=== {command:?}");
            let status = command.status().context("moor-bench cannot be started")?;
            let written = std::fs::read_to_string(&json).context("moor-bench wrote no figures")?;
            std::fs::remove_file(&json)?;
            let figures: Value = serde_json::from_str(&written)?;
            let why = [&figures["harness_short"], &figures["shortcomings"]];
            match status.code() {
                Some(0) => return Ok(figures),
                Some(HARNESS_SHORT) if attempts_left > 0 => eprintln!("=== once more: {}", why[0]),
                _ => bail!("moor-bench {sub} ended with {status}: {} {}", why[0], why[1]),
            }
        }
        bail!("moor-bench {sub} was never run")
    }
}

/// The exit code of a harness that was too slow itself.
const HARNESS_SHORT: i32 = 4;
const HARNESS_ATTEMPTS: u32 = 3;

/// What the gateway alone may take of user memory for a session, bytes: the product's promise.
const USER_BYTES_MAX: f64 = 160.0;
/// And of kernel memory above a bare socket.
const KERNEL_BYTES_MAX: f64 = 300.0;
/// And of user memory for each further channel, the same person's in another app.
const CHANNEL_BYTES_MAX: f64 = 40.0;
/// Channels of a connection when those are weighed.
const CHANNELS: u32 = 4;

/// 100,000 sessions on six workers (a descriptor table may be limited to 20,000): nobody lost, memory in bounds. All
/// in one process first, as a newcomer starts it; then the gateway alone, whose memory per session is the product's
/// promise, with one channel a connection and with several.
///
/// One channel is weighed three times and the middle counts: weighings lie within five bytes of each other (user) and
/// ten (kernel) unless something else of the machine comes between.
pub fn density() -> Result<()> {
    let many = ["--connections", "100000"];
    let bounds = ["--seconds", "60", "--require", "gateway_user_bytes_per_session<=512"];
    Gateway::start(6, RouterPlace::Embedded)?.bench("hold", &[&many[..], &bounds].concat())?;
    let (mut user, mut kernel) = (Vec::new(), Vec::new());
    for seconds in ["30", "5", "5"] {
        let gateway = Gateway::start(6, RouterPlace::Separate)?;
        let result = gateway.bench("hold", &[&many[..], &["--seconds", seconds]].concat())?;
        let figure = |key: &str| result[key].as_f64().with_context(|| format!("{key} was not measured"));
        user.push(figure("gateway_user_bytes_per_session")?);
        kernel.push(figure("kernel_bytes_per_session")?);
    }
    let middle = |what, mut weighed: Vec<f64>| {
        weighed.sort_by(f64::total_cmp);
        eprintln!("=== {what} memory of a session, gateway alone, bytes: {weighed:?}");
        weighed[weighed.len() / 2]
    };
    let (user, kernel) = (middle("user", user), middle("kernel", kernel));
    let channels = CHANNELS.to_string();
    let several = Gateway::start(6, RouterPlace::Separate)?
        .bench("hold", &[&many[..], &["--channels", &channels, "--seconds", "5"]].concat())?;
    let connection =
        several["gateway_user_bytes_per_connection"].as_f64().context("connections were not weighed")?;
    let further = (connection - user) / f64::from(CHANNELS - 1);
    for (what, bytes, most) in [
        ("user memory of a session", user, USER_BYTES_MAX),
        ("kernel memory of a session", kernel, KERNEL_BYTES_MAX),
        ("user memory of a further channel", further, CHANNEL_BYTES_MAX),
    ] {
        eprintln!("=== {what}: {bytes:.1} bytes, at most {most}");
        if bytes > most {
            bail!("{what} is {bytes:.1} bytes, at most {most} are promised");
        }
    }
    Ok(())
}

/// Nine of ten sessions drop at once and come back: nobody else notices, the router is right at the end. Then a message
/// a minute to everybody, whose 99th percentile must stay below that of the published record (25 ms).
pub fn storm() -> Result<()> {
    let gateway = Gateway::start(6, RouterPlace::Separate)?;
    let router = gateway.router.as_ref().context("the router is a process of its own")?.address("router")?;
    let many = ["--connections", "100000"];
    let drops = ["--drop", "90000", "--back-within", "15", "--seconds", "3", "--router", router];
    gateway.bench("storm", &[&many[..], &drops].concat())?;
    // Of three rounds the middle one: a pause of this machine is not the gateway's.
    let bound = ["--seconds", "5", "--repeat", "3", "--require", "p99<=25000"];
    gateway.bench("mixed", &[&many[..], &bound].concat()).map(drop)
}

/// The figures of docs/benchmarks, one JSON file each.
pub fn figures(summary: &mut Summary) -> Result<()> {
    let directory = release_dir().join("figures");
    std::fs::create_dir_all(&directory)?;
    let many: &[&str] = &["--connections", "100000", "--seconds", "60"];
    let busy: &[&str] = &["--connections", "15000", "--seconds", "20", "--rate", "20000"];
    let runs: [(&str, &str, u32, RouterPlace, &[&str]); 5] = [
        ("connect", "connect", 6, RouterPlace::Embedded, many),
        ("hold", "hold", 6, RouterPlace::Embedded, many),
        ("hold-gateway-alone", "hold", 6, RouterPlace::Separate, many),
        ("ping", "ping", 2, RouterPlace::Embedded, busy),
        ("push", "push", 2, RouterPlace::Embedded, busy),
    ];
    for (name, sub, workers, place, arguments) in runs {
        let json = directory.join(format!("{name}.json"));
        summary.run_with(name, || {
            let figures = Gateway::start(workers, place)?.bench(sub, arguments)?;
            Ok(std::fs::write(json, format!("{figures:#}\n"))?)
        });
    }
    summary.note(format!("the figures are in {}", directory.display()));
    Ok(())
}
