//! What a device fetches that has no agent yet.

use farshore_domain::digest::Digest;
use farshore_store::test_util::TestDatabase;
use serde_json::{Value, json};

use crate::harness::Fleet;

const PACKAGE: &str = "farshore-agent_0.1.0_amd64.deb";

#[tokio::test(flavor = "multi_thread")]
async fn the_line_for_a_new_device_leads_by_digests_to_the_package() {
    let packages = tempfile::tempdir().unwrap();
    let folder = packages.path().to_owned();
    let fleet =
        Fleet::start(TestDatabase::sqlite(), &|settings| settings.data.packages.clone_from(&folder)).await;
    let create = async |name: &str| -> Value {
        let token = json!({"metadata": {"name": name}, "spec": {"lifetimeSeconds": 60, "uses": 1}});
        fleet.admin.post("/api/claim-tokens", token).await.expect(201).json()
    };
    // Without a package there is no line, rather than one that can't work.
    assert_eq!(create("first").await["status"]["install"], Value::Null);

    std::fs::write(packages.path().join(PACKAGE), b"the package").unwrap();
    let token = create("second").await;
    let line = token["status"]["install"].as_str().unwrap();
    let anybody = fleet.nobody();
    let script = anybody.get("/install/bootstrap_edge_node.sh").await.expect(200).body;
    assert!(line.contains(&Digest::of(&script).hex()), "{line}");
    assert!(line.contains(token["status"]["token"].as_str().unwrap()), "{line}");
    let script = String::from_utf8(script.to_vec()).unwrap();
    let digest = Digest::of(b"the package").hex();
    assert!(script.contains(&format!("FARSHORE_PACKAGES='{digest}  {PACKAGE}'")), "{script}");
    assert_eq!(anybody.get(&format!("/install/{PACKAGE}")).await.expect(200).body, "the package");
    let sums = anybody.get("/install/SHA256SUMS").await.expect(200).body;
    assert_eq!(sums, format!("{digest}  {PACKAGE}\n"));
    for nothing in ["farshore-agent_0.2.0_amd64.deb", "..%2Ffarshore.db", "farshore.db", "%2Fetc%2Fpasswd"] {
        anybody.get(&format!("/install/{nothing}")).await.problem(404, "not-found");
    }
    fleet.stop().await;
}
