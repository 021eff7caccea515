//! Certificates and kubeconfig files, made afresh for every bed. Users are known by client certificate or by
//! service account token, as in a real cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// The address at which everything in the bed reaches the API server.
pub const SERVER: &str = "https://127.0.0.1:6443";

const SERVER_NAMES: [&str; 7] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "10.96.0.1",
];

/// The bed's certificate authority, and the files that the control plane reads.
pub struct Pki {
    dir: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// Writes `ca.crt`, `apiserver.{crt,key}` and `sa.{key,pub}` into `dir`.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "testbed-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(dir)?;
        fs::write(dir.join("ca.crt"), authority.pem())?;

        // Two files, because the API server cannot take the public key out of an EC private key in PKCS#8.
        let key = KeyPair::generate()?;
        fs::write(dir.join("sa.key"), key.serialize_pem())?;
        fs::write(dir.join("sa.pub"), key.public_key_pem())?;

        let pki = Self { dir: dir.to_owned(), authority };
        let (certificate, key) = pki.server(&SERVER_NAMES)?;
        fs::write(dir.join("apiserver.crt"), certificate.pem())?;
        fs::write(dir.join("apiserver.key"), key.serialize_pem())?;
        Ok(pki)
    }

    /// A certificate for a server that is called by these names, and its key.
    pub fn server(&self, names: &[&str]) -> anyhow::Result<(Certificate, KeyPair)> {
        let mut params = CertificateParams::new(names.iter().copied().map(String::from).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, *names.first().context("a server has a name")?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.authority)?, key))
    }

    /// Path of one of the files that [`Pki::create`] wrote.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes `<user>.kubeconfig` with a client certificate for that user, perhaps in a group.
    pub fn user_kubeconfig(&self, user: &str, group: Option<&str>) -> anyhow::Result<PathBuf> {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, user);
        if let Some(group) = group {
            name.push(DnType::OrganizationName, group);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let credentials = json!({
            "client-certificate-data": base64(params.signed_by(&key, &self.authority)?.pem()),
            "client-key-data": base64(key.serialize_pem()),
        });
        self.write_kubeconfig(&user.replace(':', "-"), &credentials)
    }

    /// Writes `<name>.kubeconfig` with a bearer token.
    pub fn token_kubeconfig(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        self.write_kubeconfig(name, &json!({ "token": token }))
    }

    fn write_kubeconfig(&self, name: &str, credentials: &Value) -> anyhow::Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "testbed",
                "cluster": { "server": SERVER, "certificate-authority-data": base64(self.authority.pem()) },
            }],
            "users": [{ "name": name, "user": credentials }],
            "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": name } }],
            "current-context": "testbed",
        });
        let path = self.file(&format!("{name}.kubeconfig"));
        fs::write(&path, serde_yaml::to_string(&config)?)?;
        Ok(path)
    }
}

/// Kubernetes' byte strings serialise as base64, which is what a kubeconfig wants.
fn base64(pem: String) -> ByteString {
    ByteString(pem.into_bytes())
}
