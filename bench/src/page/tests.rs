//! Whole reports: of the results in this repository, and of files that mean harm.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// Every JSON file below docs/benchmarks, older results among them.
fn kept() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn of(texts: &[&str]) -> Result<Content, String> {
    let mut content = Content::default();
    for (at, text) in texts.iter().enumerate() {
        match read::parse(text, format!("run{at}"))? {
            Document::Run(run) => content.runs.push(*run),
            Document::Compare { name, systems } => content.compared.push((name, systems)),
        }
    }
    Ok(content)
}

/// A run as the harness writes it now.
const PUSH: &str = r#"{
    "subcommand": "push", "command": "push --rate 5000", "commit": "0123456789ab", "exit_code": 3, "cpus": 2,
    "started_at": "2026-11-23T12:00:00Z", "shortcomings": ["9 of 10 arrived"], "kernel": "6.18", "never_heard_of": 77,
    "machine": {"cpu": "Some CPU", "cpus": 2, "memory_bytes": 8589934592, "kernel": "6.18", "os": "Debian"},
    "sysctls": {"net.core.somaxconn": "4096"}, "latency_p99_us": 507, "jitter_us": {"p99": 88, "max": 1500},
    "gateway_user_cpu_us_per_delivery": 2.5, "gateway_system_cpu_us_per_delivery": 7.5,
    "percentiles": {"latency": [[0, 90], [0.5, 200], [0.9, 300], [0.99, 507], [0.999, 3000], [1, 14000]], "login": []},
    "samples": [
        {"t_s": 0.0, "phase": "begin", "connected": 0, "lost": 0, "delivered_per_s": 0, "p99_us": null, "user_bytes": 1000000, "kernel_slab_bytes": 9000000},
        {"t_s": 1.0, "phase": "log in", "connected": 100, "lost": 0, "delivered_per_s": 0, "p99_us": 9000, "user_bytes": 1100000, "kernel_slab_bytes": 9500000},
        {"t_s": 2.0, "phase": "push", "connected": 100, "lost": 0, "delivered_per_s": 5000.5, "p99_us": 500, "user_bytes": 1100000, "kernel_slab_bytes": 9500000}
    ]
}"#;

#[test]
fn every_result_in_the_repository_can_be_shown_alone_and_all_together() {
    let paths = kept();
    assert!(paths.len() >= 8, "{paths:?}");
    for path in paths.iter().map(std::slice::from_ref).chain([paths.as_slice()]) {
        let content = Content::read(path).unwrap();
        let (page, markdown) = (html::page(&content), markdown::document(&content));
        for run in &content.runs {
            assert!(!run.figures.is_empty(), "{}", run.name);
            for (key, _) in &run.figures {
                assert!(page.contains(key.as_str()) && markdown.contains(&key.replace('_', "\\_")), "{key}");
            }
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""));
    }
}

#[test]
fn a_page_has_the_curves_the_machine_the_settings_and_what_nobody_knows() {
    let page = html::page(&of(&[PUSH]).unwrap());
    for part in [
        "Latency by percentile",
        "99.9%",
        "99th percentile of each second",
        "User memory per session",
        "Kernel memory per session",
        "Delivered",
        "Connected",
        "Gateway CPU per delivery",
        "Some CPU",
        "8.0 GiB",
        "6.18",
        "net.core.somaxconn",
        "4096",
        "0123456789ab",
        "moor-bench push --rate 5000",
        "2026-11-23T12:00:00Z",
        "never_heard_of",
        "77",
        "507 µs",
        "14 ms",
        "the server fell short",
        "9 of 10 arrived",
        "jitter",
        "prefers-color-scheme",
        "width=device-width",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
    assert!(!page.contains("Login time by percentile"), "an empty curve has no chart");
    assert!(!page.contains("class=\"legend\"><li><i class=\"s0\"></i>run0"), "one run needs no legend");
    let markdown = markdown::document(&of(&[PUSH]).unwrap());
    for part in [
        "99.9%",
        "█",
        "Some CPU",
        "net.core.somaxconn",
        "0123456789ab",
        "push --rate 5000",
        "never\\_heard\\_of",
        "User memory per session",
    ] {
        assert!(markdown.contains(part), "{part}");
    }
}

#[test]
fn runs_of_the_same_subcommand_share_their_charts() {
    let page =
        html::page(&of(&[PUSH, &PUSH.replace("507", "700"), r#"{"subcommand":"hold","lost":0}"#]).unwrap());
    assert_eq!(page.matches("<strong>Latency by percentile</strong>").count(), 1);
    assert!(page.contains("push, 2 runs") && page.contains("median (least to most)"));
    assert!(page.contains(r#"<i class="s0"></i>run0</li><li><i class="s1"></i>run1"#));
}

#[test]
fn a_comparison_is_a_table_and_bars() {
    let text = r#"[{"system":"moor","version":"0.1","p99_us":500,"deliveries_per_cpu_s":60000,"odd":1},
                   {"system":"other <b>","version":"9","p99_us":1500}]"#;
    let content = of(&[text]).unwrap();
    let (page, markdown) = (html::page(&content), markdown::document(&content));
    for part in ["Deliveries per second of CPU", "60,000/s", "1.5 ms", "other &lt;b&gt;", "version", "odd"] {
        assert!(page.contains(part) && (part.starts_with("other") || markdown.contains(part)), "{part}");
    }
    assert_eq!(page.matches("<svg").count(), 3);
}

#[test]
fn what_a_file_says_is_text_and_never_markup() {
    let harm = r#"</style></title><script>alert(1)</script><img src=x onerror=y>\"'&"#;
    let text = PUSH
        .replace("never_heard_of", harm)
        .replace("Some CPU", harm)
        .replace("9 of 10 arrived", harm)
        .replace("push --rate", harm)
        .replace("\"log in\"", &format!("\"{harm}\""))
        .replace("net.core", harm)
        .replace("\"latency\":", &format!("\"{harm}\":"))
        .replace("\"subcommand\": \"push\"", &format!("\"subcommand\": \"{harm}\""))
        .replace("\"user_bytes\"", &format!("\"{harm}\""));
    let content = of(&[&text, &text]).unwrap();
    let page = html::page(&content);
    assert!(page.contains("&lt;script&gt;"));
    for tag in ["<script", "<img", "onerror=y>\""] {
        assert!(!page.contains(tag), "{tag}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    let markdown = markdown::document(&content);
    // In blocks of code markup is text already.
    let outside: String = markdown.split("```").step_by(2).collect();
    assert!(outside.contains("&lt;script&gt;") && !outside.contains("<script") && !outside.contains("<img"));
}

#[test]
fn what_is_no_result_is_refused_with_a_reason() {
    let sample = |fields: &str| format!(r#"{{"subcommand":"x","samples":[{{"t_s":1}},{{{fields}}}]}}"#);
    let curve = |points: &str| format!(r#"{{"subcommand":"x","percentiles":{{"latency":{points}}}}}"#);
    for (text, reason) in [
        (String::new(), "is not JSON"),
        (PUSH[..PUSH.len() / 2].to_owned(), "is not JSON (EOF"),
        ("[".repeat(100_000), "is not JSON"),
        ("7".to_owned(), "neither an object nor a list"),
        ("[]".to_owned(), "neither an object nor a list"),
        ("{}".to_owned(), "has no `subcommand`"),
        (r#"{"hello":"world"}"#.to_owned(), "has no `subcommand`"),
        (r#"{"subcommand":5}"#.to_owned(), "`subcommand` is no text"),
        (r#"[{"p99_us":5}]"#.to_owned(), "entry 1 has no text `system`"),
        (r#"[{"system":"a"}, 5]"#.to_owned(), "entry 2 is no object"),
        (r#"{"subcommand":"x","samples":5}"#.to_owned(), "`samples` has the wrong type: a number"),
        (r#"{"subcommand":"x","machine":"y"}"#.to_owned(), "`machine` has the wrong type: a text"),
        (r#"{"subcommand":"x","shortcomings":[5]}"#.to_owned(), "`shortcomings` 1 is no text"),
        (sample(r#""t_s":0.5"#), "`samples` 2 has no `t_s`, or one that goes back"),
        (sample(r#""t_s":2,"connected":"all""#), "`samples` 2: `connected` is no number"),
        (curve("[[0.5,10],[0.4,20]]"), "`percentiles.latency` is no list"),
        (curve("[[0.5,10],[0.9,9]]"), "`percentiles.latency` is no list"),
        (curve("[[1.5,10]]"), "`percentiles.latency` is no list"),
        (curve("[[0.5]]"), "`percentiles.latency` is no list"),
    ] {
        let error = of(&[&text]).map(|_| ()).unwrap_err();
        assert!(error.contains(reason), "{error} is not about {reason}");
    }
}

#[test]
fn an_error_names_its_file_and_an_endless_one_is_not_read_to_its_end() {
    let folder = std::env::temp_dir().join(format!("moor-bench-report-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (wrong, endless) = (folder.join("wrong.json"), folder.join("endless.json"));
    fs::write(&wrong, "{\"subcommand\":").unwrap();
    // Blanks that take no room on the disk would be zeros, which are text as well.
    fs::File::create(&endless).unwrap().set_len(1 << 40).unwrap();
    let error = |path: &Path| Content::read(&[path.to_owned()]).map(|_| ()).unwrap_err();
    assert!(error(&wrong).contains("wrong.json: is not JSON"), "{}", error(&wrong));
    assert!(error(&endless).contains("endless.json: has more than 100 MiB"), "{}", error(&endless));
    assert!(error(&folder.join("none.json")).contains("none.json: cannot be read"));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_long_run_is_drawn_with_its_extremes_and_few_points() {
    let samples: Vec<String> = (0..50_000)
        .map(|t_s| format!(r#"{{"t_s":{t_s},"p99_us":{}}}"#, if t_s == 33_333 { 900_000 } else { 100 }))
        .collect();
    let page =
        html::page(&of(&[&format!(r#"{{"subcommand":"push","samples":[{}]}}"#, samples.join(","))]).unwrap());
    assert!(page.len() < 60_000, "{}", page.len());
    assert!(page.contains("900 ms") || page.contains("1 s"));
    let path = page.split("class=\"line s0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    let heights = path
        .split(['M', 'L'])
        .filter_map(|point| point.split_once(' '))
        .map(|(_, y)| y.parse::<f64>().unwrap());
    assert_eq!(heights.filter(|y| *y < 100.0).count(), 1, "the one bad second is there");
}

#[test]
fn a_run_has_the_same_colour_in_every_chart_and_its_name_even_where_it_is_alone() {
    let old = r#"{"subcommand":"push","latency_p99_us":600}"#;
    let page = html::page(&of(&[old, PUSH]).unwrap());
    assert!(page.contains(r#"<ul class="legend"><li><i class="s1"></i>run1</li></ul>"#));
    assert!(page.contains("class=\"line s1\"") && !page.contains("class=\"line s0\" d=\"M"));
}
