//! The core of the crate, which is left without any feature, needs few other crates.

use std::process::Command;

use serde_json::Value;

/// What reactor, net, server and metrics may depend on; nix for Linux only.
const CORE: [&str; 7] = ["httparse", "libc", "log", "mio", "nix", "slab", "socket2"];

#[test]
fn without_features_only_the_core_dependencies_are_left() {
    // With --no-deps cargo reads the manifest alone: it needs no network and no downloaded crates.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let dependencies = metadata["packages"][0]["dependencies"].as_array().expect("a list of dependencies");
    let core = dependencies.iter().filter(|dependency| dependency["kind"].is_null() && dependency["optional"] == false);
    let mut names: Vec<_> = core.clone().filter_map(|dependency| dependency["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, CORE);
    for dependency in core.filter(|dependency| dependency["name"] == "nix") {
        assert_eq!(dependency["target"], "cfg(target_os = \"linux\")");
    }
}
