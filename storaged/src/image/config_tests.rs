use super::*;

fn digest(n: u8) -> String {
    Digest::new([n; 32]).to_string()
}

#[test]
fn reads_how_to_run_it() {
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}},
        "config":{{"Entrypoint":null,"Cmd":["/hello","-v"],"Env":["A=b"],"WorkingDir":"/srv","User":"web"}}}}"#,
        digest(1)
    );
    let config = Config::parse(text.as_bytes(), 1).unwrap();
    assert_eq!(config.run.cmd, ["/hello", "-v"]);
    assert_eq!(
        (config.run.working_dir.as_str(), config.run.user.as_str()),
        ("/srv", "web")
    );
    assert!(config.run.entrypoint.is_empty());
    Config::parse(text.as_bytes(), 2).unwrap_err();
    Config::parse(text.replace("amd64", "arm64").as_bytes(), 1).unwrap_err();
}

/// An image whose `config` this is.
fn run_config(run: &serde_json::Value) -> Result<Config, String> {
    let file = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"diff_ids": []},
        "config": run,
    });
    Config::parse(&serde_json::to_vec(&file).unwrap(), 0).map_err(|error| error.to_string())
}

#[test]
fn what_is_said_about_running_it_fits_a_guest() {
    let config = |run: serde_json::Value| run_config(&run);
    let long = "x".repeat(MAX_IMAGE_CONFIG);
    for (field, value) in [
        ("Env", serde_json::json!([long])),
        ("Env", serde_json::json!(vec![""; MAX_IMAGE_CONFIG / 3])),
        ("Cmd", serde_json::json!([long])),
        ("Entrypoint", serde_json::json!([long])),
        ("User", serde_json::json!(long)),
        ("WorkingDir", serde_json::json!(long)),
        ("Volumes", serde_json::json!({ long.as_str(): {} })),
        // Six bytes each where a guest reads it.
        (
            "Env",
            serde_json::json!(["\u{1}".repeat(MAX_IMAGE_CONFIG / 6)]),
        ),
    ] {
        let error = config(serde_json::json!({ field: value })).unwrap_err();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
    // Together.
    let half = "x".repeat(MAX_IMAGE_CONFIG / 2);
    let both = serde_json::json!({"Env": [half], "Cmd": [half]});
    assert!(config(both).unwrap_err().contains("at most"));

    let most = |n: usize| config(serde_json::json!({"Env": ["x".repeat(n)]}));
    let rest = serde_json::to_vec(&most(0).unwrap().run).unwrap().len();
    let found = most(MAX_IMAGE_CONFIG - rest).unwrap();
    assert_eq!(
        serde_json::to_vec(&found.run).unwrap().len(),
        MAX_IMAGE_CONFIG
    );
    most(MAX_IMAGE_CONFIG - rest + 1).unwrap_err();
}

#[test]
fn every_way_to_write_how_to_run_it_is_read() {
    let read = |run: serde_json::Value| run_config(&run).unwrap().run;
    for nothing in [
        serde_json::json!(null),
        serde_json::json!({}),
        serde_json::json!({"Entrypoint": null, "Cmd": null, "Env": null, "WorkingDir": null,
            "User": null, "StopSignal": null, "Volumes": null, "Healthcheck": null, "Shell": null}),
        serde_json::json!({"Entrypoint": [], "Cmd": [], "Env": [], "WorkingDir": "", "User": "",
            "StopSignal": "", "Volumes": {}, "Healthcheck": {}}),
        serde_json::json!({"Entrypoint": [""]}),
    ] {
        assert_eq!(read(nothing), ImageConfig::default());
    }
    // Only one empty text alone means none; elsewhere it is an argument like any other.
    let run = read(serde_json::json!({"Entrypoint": ["", ""], "Cmd": [""]}));
    assert_eq!((run.entrypoint.len(), run.cmd.len()), (2, 1));
    let run = read(serde_json::json!({"StopSignal": "SIGRTMIN+3",
        "Volumes": {"/prometheus": {}, "/data": null}}));
    assert_eq!(run.stop_signal.unwrap().number(), 37);
    assert_eq!(run.volumes, ["/data", "/prometheus"]);
    let run = read(serde_json::json!({"Shell": ["/bin/bash", "-c"],
        "Healthcheck": {"Test": ["CMD-SHELL", "true"]}}));
    assert_eq!(
        run.healthcheck.unwrap().command,
        ["/bin/bash", "-c", "true"]
    );
}

#[test]
fn what_does_not_concern_a_machine_may_be_anything() {
    let run = serde_json::json!({
        "Cmd": ["/hello"],
        "ArgsEscaped": "yes", "ExposedPorts": ["80"], "Labels": {"a": 1}, "OnBuild": {},
        "Shell": 5, "Healthcheck": {"Test": ["CMD", "/check"], "Other": 5}, "Memory": -1, "Domainname": [], "Tty": 1,
    });
    assert_eq!(run_config(&run).unwrap().run.cmd, ["/hello"]);
}

#[test]
fn a_field_that_cannot_be_used_is_named() {
    let long = "x".repeat(100_000);
    for (field, value) in [
        ("StopSignal", serde_json::json!("SIGFOO")),
        ("StopSignal", serde_json::json!("65")),
        ("StopSignal", serde_json::json!(long)),
        ("StopSignal", serde_json::json!(9)),
        ("Volumes", serde_json::json!(["/data"])),
        ("Entrypoint", serde_json::json!("/hello")),
        ("Entrypoint", serde_json::json!(long)),
        ("Cmd", serde_json::json!([1])),
        ("Env", serde_json::json!({"A": "b"})),
        ("User", serde_json::json!(1000)),
        ("WorkingDir", serde_json::json!(["/"])),
        ("Healthcheck", serde_json::json!({"Test": "/check"})),
        (
            "Healthcheck",
            serde_json::json!({"Test": ["CMD", "/check"], "Interval": "30s"}),
        ),
        (
            "Healthcheck",
            serde_json::json!({"Test": ["CMD", "/check"], "Retries": 1.5}),
        ),
    ] {
        let error = run_config(&serde_json::json!({ field: value })).unwrap_err();
        let named = error.starts_with(&format!("the image's `{field}"));
        let named = named && error.contains("` cannot be used: ");
        assert!(named && error.len() < 400, "{error}");
    }
}

#[test]
fn what_of_a_field_cannot_be_used_is_named() {
    for (run, place) in [
        (serde_json::json!({"Env": ["A=b", 5]}), "Env[1]"),
        (serde_json::json!({"Cmd": [null]}), "Cmd[0]"),
        (
            serde_json::json!({"Healthcheck": {"Test": ["CMD", 1]}}),
            "Healthcheck.Test[1]",
        ),
        (
            serde_json::json!({"Healthcheck": {"Test": ["CMD", "/check"], "Interval": "30s"}}),
            "Healthcheck.Interval",
        ),
    ] {
        let error = run_config(&run).unwrap_err();
        let expected = format!("the image's `{place}` cannot be used: invalid type");
        assert!(error.starts_with(&expected), "{error}");
    }
    for (file, place) in [
        (
            serde_json::json!({"architecture": "amd64", "os": 5, "rootfs": {"diff_ids": []}}),
            "`os`: invalid type",
        ),
        (
            serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": null}),
            "`rootfs`: invalid type",
        ),
        (
            serde_json::json!({"os": "linux", "rootfs": {"diff_ids": []}}),
            "missing field `architecture`",
        ),
        (
            serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest(1), "x"]}}),
            "`rootfs.diff_ids[1]`: ",
        ),
    ] {
        let error = Config::parse(&serde_json::to_vec(&file).unwrap(), 0).unwrap_err();
        let expected = format!("the configuration cannot be read: {place}");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn bytes_that_are_no_text_are_replaced_as_builders_do() {
    let text = b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"diff_ids\":[]},\
        \"config\":{\"Env\":[\"A=\xff\"],\"Labels\":{\"\xff\":\"\"}}}";
    let config = Config::parse(text, 0).unwrap();
    assert_eq!(config.run.env, ["A=\u{fffd}"]);
}
