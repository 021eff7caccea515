//! What a pod gives to its container: what it runs, its environment, and what is in its volumes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container, EnvVar, KeyToPath, Pod, PodSpec, Secret, SecretProjection, ServiceAccount, Volume,
    VolumeProjection,
};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::Value;

use crate::image::Image;
use crate::pki;

/// Addresses that the operator listens at, with their ports where the pod does not say.
const ADDRESSES: [(&str, u16); 2] = [("AETHER_ADMIN_ADDRESS", 8081), ("AETHER_API_ADDRESS", 8080)];

/// What a pod's volume has: names of files and what is in them.
type Files = BTreeMap<String, Vec<u8>>;

/// A pod's command stands for the image's entry point and its arguments.
pub fn program(container: &Container, image: &Image) -> anyhow::Result<Vec<String>> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let program = match (given(&container.command), given(&container.args)) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), args].concat(),
        (None, None) => [image.entrypoint.clone(), image.command.clone()].concat(),
    };
    program.iter().try_for_each(|word| plain(word))?;
    Ok(program)
}

/// Kubernetes would put variables in.
fn plain(text: &str) -> anyhow::Result<()> {
    ensure!(!text.contains("$("), "{text:?}: this pod server puts no variables in");
    Ok(())
}

/// What a pod may ask for and does not get.
pub fn refuse(spec: &PodSpec, container: &Container) -> anyhow::Result<()> {
    let init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    for (asked, what) in [
        (init, "initContainers"),
        (container.env_from.as_ref().is_some_and(|list| !list.is_empty()), "envFrom"),
        (container.startup_probe.is_some(), "startupProbe"),
        (container.lifecycle.is_some(), "lifecycle"),
        (container.working_dir.is_some(), "workingDir"),
    ] {
        ensure!(!asked, "container {}: this pod server knows no {what} of pods that it really runs", container.name);
    }
    Ok(())
}

/// A pod, with all that is known when its container starts.
pub struct Given<'a> {
    client: &'a Client,
    namespace: String,
    /// The pod's name.
    pub name: String,
    uid: String,
    ip: Ipv4Addr,
    /// What it asks for.
    pub spec: PodSpec,
    /// All of it, to find fields in.
    fields: Value,
}

impl<'a> Given<'a> {
    /// A pod that gets this address.
    pub fn new(client: &'a Client, pod: Pod, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let mut fields = serde_json::to_value(&pod)?;
        let status = serde_json::json!({"podIP": ip, "podIPs": ip, "hostIP": Ipv4Addr::LOCALHOST, "hostIPs": Ipv4Addr::LOCALHOST});
        fields.as_object_mut().context("a pod is an object")?.insert("status".into(), status);
        let meta = pod.metadata;
        Ok(Self {
            client,
            namespace: meta.namespace.context("a pod has a namespace")?,
            name: meta.name.context("a pod has a name")?,
            uid: meta.uid.context("a pod has a uid")?,
            ip,
            spec: pod.spec.context("a pod has a spec")?,
            fields,
        })
    }

    /// A field by its path; the names of labels and annotations are in `['']`.
    fn field(&self, path: &str) -> anyhow::Result<String> {
        let (path, key) =
            path.strip_suffix("']").and_then(|path| path.split_once("['")).map_or((path, None), |(path, key)| (path, Some(key)));
        let found = path.split('.').chain(key).try_fold(&self.fields, |value, name| value.get(name));
        Ok(found.and_then(Value::as_str).with_context(|| format!("fieldRef: the pod has no text at {path}"))?.to_owned())
    }

    /// Exactly what the process finds in its environment.
    pub async fn environment(&self, container: &Container) -> anyhow::Result<Vec<(String, String)>> {
        let server = pki::SERVER.trim_start_matches("https://");
        let (host, port) = server.split_once(':').context("the API server has a port")?;
        let mut environment: BTreeMap<String, String> =
            [("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)].map(|(name, value)| (name.into(), value.into())).into();
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.value(variable).await.with_context(|| format!("environment variable {}", variable.name))? {
                environment.insert(variable.name.clone(), value);
            }
        }
        for (name, port) in ADDRESSES {
            let said = environment.get(name).map_or(Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))), |value| value.parse());
            // All pods of the bed share one network: who listens at every address keeps all others from it. So each listens at
            // its own address, where everybody looks for it anyway. What is no address (off) stays as it is.
            if let Ok(said) = said
                && said.ip().is_unspecified()
            {
                environment.insert(name.into(), SocketAddr::new(IpAddr::V4(self.ip), said.port()).to_string());
            }
        }
        Ok(environment.into_iter().collect())
    }

    /// `None` where a reference is optional and leads nowhere.
    async fn value(&self, variable: &EnvVar) -> anyhow::Result<Option<String>> {
        let Some(from) = &variable.value_from else {
            let value = variable.value.clone().unwrap_or_default();
            plain(&value)?;
            return Ok(Some(value));
        };
        let (files, key, optional) = if let Some(field) = &from.field_ref {
            return self.field(&field.field_path).map(Some);
        } else if let Some(secret) = &from.secret_key_ref {
            (self.secret(&secret.name, secret.optional).await?, &secret.key, secret.optional)
        } else if let Some(map) = &from.config_map_key_ref {
            (self.config_map(&map.name, map.optional).await?, &map.key, map.optional)
        } else {
            bail!("this pod server knows fieldRef, secretKeyRef and configMapKeyRef only");
        };
        match files.get(key) {
            Some(content) => Ok(Some(String::from_utf8(content.clone()).ok().with_context(|| format!("key {key:?} is no text"))?)),
            None if optional == Some(true) => Ok(None),
            None => bail!("there is no key {key:?}"),
        }
    }

    async fn secret(&self, name: &str, optional: Option<bool>) -> anyhow::Result<Files> {
        let found = Api::<Secret>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await?;
        ensure!(found.is_some() || optional == Some(true), "secret {name:?} not found");
        Ok(found.and_then(|secret| secret.data).unwrap_or_default().into_iter().map(|(key, content)| (key, content.0)).collect())
    }

    async fn config_map(&self, name: &str, optional: Option<bool>) -> anyhow::Result<Files> {
        let found = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await?;
        ensure!(found.is_some() || optional == Some(true), "configmap {name:?} not found");
        Ok(found.and_then(|map| map.data).unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes())).collect())
    }

    /// What is in a volume. The ServiceAccount's token is in one that the API server adds.
    pub async fn files(&self, volume: &Volume) -> anyhow::Result<Files> {
        let sources = if let Some(projected) = &volume.projected {
            projected.sources.clone().unwrap_or_default()
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.clone().unwrap_or_default();
            let secret = SecretProjection { name, items: secret.items.clone(), optional: secret.optional };
            vec![VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }]
        } else if let Some(map) = &volume.config_map {
            let map = ConfigMapProjection { name: map.name.clone(), items: map.items.clone(), optional: map.optional };
            vec![VolumeProjection { config_map: Some(map), ..VolumeProjection::default() }]
        } else if volume.empty_dir.is_some() {
            Vec::new()
        } else {
            bail!("volume {}: this pod server knows emptyDir, secret, configMap and projected only", volume.name);
        };
        let mut files = Files::new();
        for source in sources {
            files.extend(self.project(&source).await.with_context(|| format!("volume {}", volume.name))?);
        }
        Ok(files)
    }

    async fn project(&self, source: &VolumeProjection) -> anyhow::Result<Files> {
        if let Some(token) = &source.service_account_token {
            let content = self.token(token.audience.as_ref(), token.expiration_seconds).await?;
            return Ok([(token.path.clone(), content.into_bytes())].into());
        }
        if let Some(secret) = &source.secret {
            return chosen(self.secret(&secret.name, secret.optional).await?, secret.items.as_ref(), secret.optional);
        }
        if let Some(map) = &source.config_map {
            return chosen(self.config_map(&map.name, map.optional).await?, map.items.as_ref(), map.optional);
        }
        let Some(downward) = &source.downward_api else { bail!("this pod server does not know one of its sources") };
        let file = |path: &str, field: Option<&str>| -> anyhow::Result<_> {
            Ok((path.to_owned(), self.field(field.context("this pod server knows fieldRef only")?)?.into_bytes()))
        };
        let items = downward.items.iter().flatten();
        items.map(|item| file(&item.path, item.field_ref.as_ref().map(|field| field.field_path.as_str()))).collect()
    }

    /// A token of the pod's ServiceAccount that ends with the pod. The API server makes one that is asked for in this way last
    /// for a year, which spares fetching another.
    async fn token(&self, audience: Option<&String>, expiration_seconds: Option<i64>) -> anyhow::Result<String> {
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
        };
        let audiences = audience.into_iter().cloned().collect();
        let spec = TokenRequestSpec { audiences, bound_object_ref: Some(bound), expiration_seconds };
        let account = self.spec.service_account_name.as_deref().unwrap_or("default");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        Ok(answer.status.context("the API server issued no token")?.token)
    }
}

/// The keys that are asked for, by the names they are to have; all if none is.
fn chosen(files: Files, items: Option<&Vec<KeyToPath>>, optional: Option<bool>) -> anyhow::Result<Files> {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(files) };
    let mut chosen = Files::new();
    for item in items {
        match files.get(&item.key) {
            Some(content) => drop(chosen.insert(item.path.clone(), content.clone())),
            None => ensure!(optional == Some(true), "there is no key {:?}", item.key),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "u", "labels": {"app.example/name": "web"}},
            "spec": {"nodeName": "node-2", "containers": [container]},
        }))
        .unwrap()
    }

    async fn environment(variables: Value) -> anyhow::Result<Vec<(String, String)>> {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse()?))?;
        let given = Given::new(&client, pod(&json!({"name": "operator", "env": variables})), Ipv4Addr::new(10, 244, 0, 9))?;
        given.environment(&given.spec.containers[0]).await
    }

    #[tokio::test]
    async fn the_environment_is_what_the_pod_says_at_the_pods_own_address() {
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let variables = json!([
            {"name": "NODE", "valueFrom": field("spec.nodeName")},
            {"name": "IP", "valueFrom": field("status.podIP")},
            {"name": "APP", "valueFrom": field("metadata.labels['app.example/name']")},
            {"name": "EMPTY"},
            {"name": "AETHER_ADMIN_ADDRESS", "value": "0.0.0.0:9000"},
        ]);
        let wanted = [
            ("AETHER_ADMIN_ADDRESS", "10.244.0.9:9000"),
            ("AETHER_API_ADDRESS", "10.244.0.9:8080"),
            ("APP", "web"),
            ("EMPTY", ""),
            ("IP", "10.244.0.9"),
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", "6443"),
            ("NODE", "node-2"),
        ];
        assert_eq!(environment(variables).await.unwrap(), wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let off = environment(json!([{"name": "AETHER_API_ADDRESS", "value": "off"}])).await.unwrap();
        assert!(off.contains(&("AETHER_API_ADDRESS".to_owned(), "off".to_owned())));
    }

    #[tokio::test]
    async fn what_is_not_known_is_named() {
        for (value, named) in [
            (json!({"value": "$(NODE)"}), "$(NODE)"),
            (json!({"valueFrom": {"fieldRef": {"fieldPath": "spec.no"}}}), "spec.no"),
            (json!({"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}), "only"),
        ] {
            let mut variable = value;
            variable["name"] = json!("ODD");
            let error = format!("{:#}", environment(json!([variable])).await.unwrap_err());
            assert!(error.contains("ODD") && error.contains(named), "{error}");
        }
        let asked = pod(&json!({"name": "operator", "startupProbe": {"httpGet": {"port": 1}}})).spec.unwrap();
        let error = refuse(&asked, &asked.containers[0]).unwrap_err().to_string();
        assert!(error.contains("startupProbe"), "{error}");
    }

    #[test]
    fn a_command_stands_for_the_entry_point_and_its_arguments() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut image = Image::default();
        (image.entrypoint, image.command) = (words(&["/entry"]), words(&["run"]));
        for (container, wanted) in [
            (json!({}), vec!["/entry", "run"]),
            (json!({"args": ["x"]}), vec!["/entry", "x"]),
            (json!({"command": ["/other"]}), vec!["/other"]),
            (json!({"command": ["/other"], "args": ["x"]}), vec!["/other", "x"]),
        ] {
            let mut container = container;
            container["name"] = json!("operator");
            assert_eq!(program(&serde_json::from_value(container).unwrap(), &image).unwrap(), words(&wanted));
        }
    }

    #[test]
    fn items_of_a_volume_are_chosen_and_renamed() {
        let files: Files = [("a".to_owned(), vec![1]), ("b".to_owned(), vec![2])].into();
        let item = |key: &str| KeyToPath { key: key.into(), path: "c".into(), mode: None };
        assert_eq!(chosen(files.clone(), None, None).unwrap(), files);
        assert_eq!(chosen(files.clone(), Some(&vec![item("b")]), None).unwrap(), [("c".to_owned(), vec![2])].into());
        assert!(chosen(files.clone(), Some(&vec![item("z")]), None).is_err());
        assert!(chosen(files, Some(&vec![item("z")]), Some(true)).unwrap().is_empty());
    }
}
