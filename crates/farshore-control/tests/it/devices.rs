//! Devices as people see and change them.

use serde_json::{Value, json};

use crate::harness::{each_engine, secret_of};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_found_by_label_text_and_state_page_by_page() {
    each_engine(async |fleet| {
        for (name, site) in [("kiosk-1", "riga"), ("kiosk-2", "riga"), ("till-1", "oslo")] {
            let token = fleet.claim_token(json!({"labels": {"site": site}, "location": site})).await;
            let device = crate::harness::TestDevice::new(fleet);
            device.claim(&secret_of(&token), name).await.expect(200);
        }
        let list = async |query: &str| -> Value {
            fleet.admin.get(&format!("/api/devices{query}")).await.expect(200).json()
        };
        assert_eq!(names(&list("").await), ["kiosk-1", "kiosk-2", "till-1"]);
        assert_eq!(names(&list("?labelSelector=site%3Driga").await), ["kiosk-1", "kiosk-2"]);
        assert_eq!(names(&list("?labelSelector=site%20notin%20(riga)").await), ["till-1"]);
        assert_eq!(names(&list("?q=OSLO").await), ["till-1"]);
        assert_eq!(
            names(&list("?sort=-name&reachability=offline&location=riga").await),
            ["kiosk-2", "kiosk-1"]
        );
        assert_eq!(names(&list("?health=healthy").await), [""; 0]);
        let first = list("?limit=2&sort=-location").await;
        assert_eq!((names(&first).len(), &first["metadata"]["total"]), (2, &json!(3)));
        let next = first["metadata"]["continue"].as_str().unwrap();
        let last = list(&format!("?limit=2&sort=-location&continue={next}")).await;
        assert_eq!(names(&last), ["till-1"]);
        assert_eq!(last["metadata"].get("continue"), None);
        for (query, field) in [
            ("?colour=red", "colour"),
            ("?labelSelector=a%20b", "labelSelector"),
            ("?sort=colour", "sort"),
            (&format!("?continue={next}"), "continue"),
            ("?sparkline=disk", "sparkline"),
        ] {
            let problem = fleet.admin.get(&format!("/api/devices{query}")).await.problem(400, "invalid");
            assert!(
                problem.errors[0].field == field || problem.detail.contains(field),
                "{query}: {problem:?}"
            );
        }
        let summary: Value =
            fleet.admin.get("/api/devices/summary?labelSelector=site%3Driga").await.expect(200).json();
        assert_eq!((&summary["total"], &summary["reachability"]), (&json!(2), &json!({"offline": 2})));
        assert_eq!(summary["byLocation"][0]["location"], "riga");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_changed_on_the_version_that_was_read() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let path = format!("/api/devices/{}", device.name());
        let read = fleet.admin.get(&path).await.expect(200);
        let etag = read.header("etag").to_owned();
        assert_eq!(read.json::<Value>()["metadata"]["uid"], device.uid());
        assert_eq!(fleet.admin.get(&format!("/api/devices/{}", device.uid())).await.expect(200).text(), read.text());
        let body = |site: &str| {
            json!({"metadata": {"name": "kiosk-7", "labels": {"site": site}}, "spec": {"channel": "canary", "location": "Rīga"}})
        };
        let changed = fleet.admin.header("if-match", &etag).put(&path, body("a")).await.expect(200);
        assert_ne!(changed.header("etag"), etag);
        let shown: Value = changed.json();
        assert_eq!((&shown["spec"]["channel"], &shown["metadata"]["labels"]["site"]), (&json!("canary"), &json!("a")));
        fleet.admin.header("if-match", &etag).put(&path, body("b")).await.problem(412, "version-mismatch");
        let mut renamed = body("a");
        renamed["metadata"]["name"] = "kiosk-8".into();
        fleet.admin.put(&path, renamed).await.problem(409, "conflict");
        let mut odd = body("a");
        odd["spec"]["driver"] = "kubernetes".into();
        fleet.admin.put(&path, odd).await.problem(400, "invalid");
        fleet.role("viewer").await.put(&path, body("c")).await.problem(403, "forbidden");
        fleet.admin.post(&format!("{path}:cordon"), json!({"comment": "works"})).await.expect(200);
        let cordoned: Value = fleet.admin.get("/api/devices?lifecycle=cordoned").await.expect(200).json();
        assert_eq!(names(&cordoned), ["kiosk-7"]);
        fleet.admin.post(&format!("{path}:uncordon"), json!({})).await.expect(200);
        fleet.role("operator").await.delete(&path).await.problem(403, "forbidden");
        fleet.admin.header("if-match", &etag).delete(&path).await.problem(412, "version-mismatch");
        fleet.admin.delete(&path).await.expect(204);
        fleet.admin.delete(&path).await.expect(204);
        let list: Value = fleet.admin.get("/api/devices").await.expect(200).json();
        assert_eq!(names(&list), [""; 0]);
        device.get("/api/channel").await.problem(403, "forbidden");
        fleet.admin.get("/api/devices/nowhere").await.problem(404, "not-found");
        fleet.tenant("other").await;
        fleet.admin.in_tenant("other").get(&format!("/api/devices/{}", device.uid())).await.problem(404, "not-found");
    })
    .await;
}
