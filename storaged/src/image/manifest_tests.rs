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

#[test]
fn what_is_said_about_running_it_fits_a_guest() {
    let config = |run: serde_json::Value| {
        let file = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"diff_ids": []},
            "config": run,
        });
        Config::parse(&serde_json::to_vec(&file).unwrap(), 0).map_err(|error| error.to_string())
    };
    let long = "x".repeat(MAX_IMAGE_CONFIG);
    for (field, value) in [
        ("Env", serde_json::json!([long])),
        ("Env", serde_json::json!(vec![""; MAX_IMAGE_CONFIG / 3])),
        ("Cmd", serde_json::json!([long])),
        ("Entrypoint", serde_json::json!([long])),
        ("User", serde_json::json!(long)),
        ("WorkingDir", serde_json::json!(long)),
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
