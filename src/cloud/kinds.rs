//! For tests: how each JSON cloud writes what the tests want it to say.

use std::sync::Arc;

use chrono::DateTime;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::scripted::Server;
use super::{Cloud, Error, Marks, Order, Phase, Vm, digitalocean, gcp, hetzner, http, marks, vultr};

pub const UID: &str = "6f0c3a52-7a54-4d33-9a3e-2f8b1c0d9e11";
pub const TOKEN: &str = "canary-token-5up3r";
pub const PASSWORD: &str = "canary-password-5up3r";

pub type Labels<'a> = &'a [(String, String)];

type Make = fn(Option<&str>) -> Result<Arc<dyn Cloud>, Error>;

/// One cloud's shapes.
pub struct Kind {
    pub name: &'static str,
    pub make: Make,
    pub id: fn(u32) -> String,
    pub vm: fn(u32, &str, Labels<'_>) -> Value,
    pub page: fn(Vec<Value>, usize, bool) -> Value,
    pub made: fn(Value) -> Value,
    pub starting: &'static str,
    pub running: &'static str,
    /// Start of the path of everything.
    pub path: &'static str,
    /// In the query of a list, of its second page, of a look for a nonce.
    pub queries: [&'static str; 3],
    /// Where the script is in an order, and whether in base64.
    pub user_data: (&'static str, bool),
    /// Where the marks are in an order.
    pub mark: &'static str,
}

pub fn flat_tags(labels: Labels<'_>) -> Vec<String> {
    labels.iter().map(|(mark, value)| format!("{mark}:{value}")).collect()
}

pub fn map(labels: Labels<'_>) -> Value {
    labels.iter().map(|(mark, value)| (mark.clone(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

pub fn token() -> SecretString {
    TOKEN.into()
}

pub const DIGITALOCEAN: Kind = Kind {
    name: "digitalocean",
    make: |base| {
        let place = digitalocean::Place { region: "lon1".into(), size: "s-1vcpu-1gb".into(), image: "ubuntu-24-04-x64".into() };
        Ok(Arc::new(digitalocean::DigitalOcean::new(http::client()?, base, token(), place)?))
    },
    id: |n| n.to_string(),
    vm: |n, state, labels| {
        json!({
            "id": n, "name": "x", "status": state, "tags": flat_tags(labels), "created_at": "2024-01-01T00:00:00Z",
            "networks": {"v4": [
                {"ip_address": "10.0.0.2", "netmask": "255.255.0.0", "gateway": "10.0.0.1", "type": "private"},
                {"ip_address": format!("192.0.2.{n}"), "netmask": "255.255.255.0", "gateway": "192.0.2.1", "type": "public"}
            ], "v6": []}, "features": ["droplet_agent"], "size_slug": "s-1vcpu-1gb"
        })
    },
    page: |droplets, total, more| {
        let next = more.then(|| json!({"pages": {"next": "https://elsewhere.example/v2/droplets?page=2&per_page=200", "last": "x"}}));
        json!({"droplets": droplets, "links": next.unwrap_or_else(|| json!({})), "meta": {"total": total}})
    },
    made: |droplet| json!({"droplet": droplet, "links": {"actions": [{"id": 7, "rel": "create", "href": "x"}]}}),
    starting: "new",
    running: "active",
    path: "/base/droplets",
    queries: ["tag_name=aether-pool%3A6f0c3a52", "&page=2", "tag_name=aether-nonce%3An0nce1"],
    user_data: ("/user_data", false),
    mark: "/tags",
};

pub const HETZNER: Kind = Kind {
    name: "hetzner",
    make: |base| {
        let place = hetzner::Place { location: "fsn1".into(), server_type: "cx23".into(), image: "ubuntu-24.04".into() };
        Ok(Arc::new(hetzner::Hetzner::new(http::client()?, base, token(), place)?))
    },
    id: |n| n.to_string(),
    vm: |n, state, labels| {
        json!({
            "id": n, "name": "x", "status": state, "labels": map(labels), "created": "2024-01-01T00:00:00+00:00",
            "public_net": {"ipv4": {"id": 4, "ip": format!("192.0.2.{n}"), "blocked": false}, "ipv6": null, "floating_ips": []}
        })
    },
    page: |servers, total, more| {
        let (next, last) = if more { (json!(2), 2) } else { (Value::Null, 1) };
        let pagination =
            json!({"page": 1, "per_page": 50, "previous_page": null, "next_page": next, "last_page": last, "total_entries": total});
        json!({"servers": servers, "meta": {"pagination": pagination}})
    },
    made: |server| json!({"server": server, "action": {"id": 1, "status": "running"}, "next_actions": [], "root_password": PASSWORD}),
    starting: "initializing",
    running: "running",
    path: "/base/servers",
    queries: ["label_selector=aether-pool%3D%3D6f0c3a52", "&page=2", "%2Caether-nonce%3D%3Dn0nce1"],
    user_data: ("/user_data", false),
    mark: "/labels",
};

pub const VULTR: Kind = Kind {
    name: "vultr",
    make: |base| {
        let place = vultr::Place { region: "ewr".into(), plan: "vc2-1c-1gb".into(), os_id: 2284 };
        Ok(Arc::new(vultr::Vultr::new(http::client()?, base, token(), place)?))
    },
    id: |n| format!("4f0f12e5-1f84-404f-aa84-{n:012}"),
    vm: |n, state, labels| {
        let (power, server) = if state == "active" { ("running", "ok") } else { ("running", "none") };
        json!({
            "id": format!("4f0f12e5-1f84-404f-aa84-{n:012}"), "status": state, "power_status": power, "server_status": server,
            "main_ip": format!("192.0.2.{n}"), "date_created": "2024-01-01T00:00:00+00:00", "tags": flat_tags(labels), "tag": "",
        })
    },
    page: |instances, total, more| {
        let next = if more { "bmV4dF9fMg==" } else { "" };
        json!({"instances": instances, "meta": {"total": total, "links": {"next": next, "prev": ""}}})
    },
    made: |mut instance| {
        instance["default_password"] = json!(PASSWORD);
        instance["main_ip"] = json!("0.0.0.0");
        json!({"instance": instance})
    },
    starting: "pending",
    running: "active",
    path: "/base/instances",
    queries: ["tag=aether-pool%3A6f0c3a52", "&cursor=bmV4dF9fMg%3D%3D", "tag=aether-nonce%3An0nce1"],
    user_data: ("/user_data", true),
    mark: "/tags",
};

pub const GCP: Kind = Kind {
    name: "gcp",
    make: |base| {
        let place = gcp::Place {
            project: "p".into(),
            zone: "z".into(),
            machine_type: "e2-micro".into(),
            image_project: "ubuntu-os-cloud".into(),
            image_family: "ubuntu-2404-lts-amd64".into(),
            spot: true,
        };
        Ok(Arc::new(gcp::Gcp::new(http::client()?, base, http::Credential::Token(token()), place)?))
    },
    id: |n| n.to_string(),
    vm: |n, state, labels| {
        json!({
            "kind": "compute#instance", "id": n.to_string(), "name": "x", "status": state, "labels": map(labels),
            "creationTimestamp": "2023-12-31T16:00:00.000-08:00",
            "networkInterfaces": [{"networkIP": "10.0.0.2", "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "natIP": format!("192.0.2.{n}")}]}]
        })
    },
    page: |instances, _, more| {
        let mut page = json!({"kind": "compute#instanceList", "id": "projects/p/zones/z/instances", "selfLink": "x"});
        if !instances.is_empty() {
            page["items"] = instances.into();
        }
        if more {
            page["nextPageToken"] = json!("next=");
        }
        page
    },
    made: |instance| json!({"kind": "compute#operation", "name": "op-1", "status": "DONE", "targetId": instance["id"], "progress": 100}),
    starting: "PROVISIONING",
    running: "RUNNING",
    path: "/base/projects/p/zones/z/instances",
    queries: ["filter=labels.aether-pool%3D6f0c3a52", "&pageToken=next%3D", "filter=labels.aether-nonce%3Dn0nce1"],
    user_data: ("/metadata/items/0/value", false),
    mark: "/labels",
};

pub const CLOUDS: [Kind; 4] = [DIGITALOCEAN, HETZNER, VULTR, GCP];

pub fn kind(name: &str) -> Kind {
    CLOUDS.into_iter().find(|kind| kind.name == name).unwrap()
}

impl Kind {
    pub fn cloud(&self, server: &Server) -> Arc<dyn Cloud> {
        (self.make)(Some(&server.base)).unwrap()
    }

    /// The `n`th VM with the marks of slot `n`.
    pub fn ours(&self, n: u32, state: &str) -> Value {
        (self.vm)(n, state, &labels(&marks(n)))
    }

    pub fn read(&self, n: u32, phase: Phase) -> Vm {
        let address = format!("192.0.2.{n}").parse().ok();
        Vm { id: (self.id)(n), marks: marks(n), phase, address }
    }
}

pub fn marks(slot: u32) -> Marks {
    let born = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
    Marks { pool: UID.into(), slot, epoch: 2, nonce: format!("n0nce{slot}"), template: "ab12".into(), born }
}

pub fn labels(marks: &Marks) -> Vec<(String, String)> {
    marks::write(marks).unwrap().into_iter().map(|(mark, value)| (mark.to_owned(), value)).collect()
}

pub fn order() -> Order {
    Order { name: "pool-6f0c3a52-1-2".into(), marks: marks(1), user_data: format!("#!/bin/sh\necho 'BasicAuth me {PASSWORD}'\n") }
}
