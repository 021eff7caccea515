use rstest::rstest;
use serde::Deserialize as _;

use super::*;

const LOGIN: &str = "PROXY_USERNAME=me\nPROXY_PASSWORD=hunter2-hunter2\n";
const EVERYTHING: &str = r#"
# The proxies of the shop
export PROXY_USERNAME="me"
PROXY_PASSWORD='hunter2-hunter2'   # only letters and digits
ONLY_HOST_IP=True
AGE_LIMIT=900
ROLLING_DEPLOYMENT=true
ROLLING_MIN_AVAILABLE=3
ROLLING_BATCH_SIZE=2

DIGITALOCEAN_ENABLED=True
DIGITALOCEAN_ACCESS_TOKEN=do-secret
DIGITALOCEAN_MIN_SCALING=5
DIGITALOCEAN_MAX_SCALING=7
DIGITALOCEAN_REGION=lon1
DIGITALOCEAN_DISPLAY_NAME=Our Droplets
DIGITALOCEAN_INSTANCE_NEW_YORK_ENABLED=True
DIGITALOCEAN_INSTANCE_NEW_YORK_ACCESS_TOKEN=do-other-secret
DIGITALOCEAN_INSTANCE_NEW_YORK_REGION=nyc1
DIGITALOCEAN_INSTANCE_NEW_YORK_MIN_SCALING=2
DIGITALOCEAN_PARIS_ENABLED=True

AWS_ENABLED=True
AWS_ACCESS_KEY_ID=AKIASECRET
AWS_SECRET_ACCESS_KEY=aws/secret+key=
AWS_REGION=eu-central-1
AWS_AMI=ami-0123456789abcdef0
AWS_SIZE=t3.micro
AWS_SPOT=True
AWS_SECURITY_GROUP=sg-1, sg-2
AWS_SUBNET_ID=subnet-1
AWS_MIN_SCALING=4

GCP_ENABLED=True
GCP_PROJECT=example-project
GCP_SERVICE_ACCOUNT_KEY='{
  "client_email": "a@b", "private_key": "gcp-secret"
}'
GCP_ZONE=europe-west3-a
GCP_IMAGE_FAMILY=ubuntu-2404-lts-amd64

HETZNER_ENABLED=True
HETZNER_API_TOKEN=hetzner-secret
HETZNER_LOCATION=hel1
HETZNER_DATACENTER=hel1-dc2
HETZNER_IMAGE=ubuntu-24.04

VULTR_ENABLED=True
VULTR_API_TOKEN=vultr-secret
VULTR_OS_ID=2284
VULTR_PLAN=
AZURE_ENABLED=False
TZ=UTC
"#;

/// The pools of an answer, each as the operator will understand it, and the Secrets by name.
fn read(converted: &Converted) -> (Vec<(ProxyPool, Wish)>, BTreeMap<String, Secret>) {
    let (mut pools, mut secrets) = (Vec::new(), BTreeMap::new());
    for document in serde_yaml::Deserializer::from_str(&converted.yaml) {
        let value = Value::deserialize(document).unwrap();
        if value["kind"] == "Secret" {
            let secret: Secret = serde_json::from_value(value).unwrap();
            secrets.insert(secret.metadata.name.clone().unwrap(), secret);
        } else {
            let pool: ProxyPool = serde_json::from_value(value).unwrap();
            let wish = Wish::parse(pool.metadata.name.as_deref().unwrap(), &pool.spec, &Defaults::default()).unwrap();
            pools.push((pool, wish));
        }
    }
    (pools, secrets)
}

fn titles(env: &str) -> Vec<String> {
    read(&convert(env, None).unwrap()).0.iter().map(|(_, wish)| wish.title()).collect()
}

#[test]
fn everything_at_once() {
    let converted = convert(EVERYTHING, Some("shop")).unwrap();
    insta::assert_snapshot!(format!("{}\n--- notes\n{}", converted.yaml, converted.notes.join("\n")));
}

#[test]
fn each_pool_finds_its_secrets_and_nothing_secret_is_elsewhere() {
    let converted = convert(EVERYTHING, Some("shop")).unwrap();
    let (pools, secrets) = read(&converted);
    assert_eq!(pools.len(), 6);
    for (pool, wish) in &pools {
        let said = serde_json::to_string(pool).unwrap();
        assert!(!said.contains("secret\"") && !said.contains("hunter2") && !said.contains("AKIA"), "{said}");
        let login = secrets[wish.proxy.auth.as_ref().unwrap()].string_data.as_ref().unwrap();
        Login::new(&login["username"], &login["password"]).unwrap();
        let keys: Vec<&String> = secrets[wish.credentials.as_ref().unwrap()].string_data.as_ref().unwrap().keys().collect();
        let expected: &[&str] = match wish.provider.name() {
            "aws" => &["accessKeyId", "secretAccessKey"],
            "gcp" => &["serviceAccountKey"],
            _ => &["token"],
        };
        assert_eq!(keys, expected, "{}", wish.title());
        assert!(wish.rolling.enabled && wish.age_limit == Some(Duration::from_mins(15)));
    }
    assert!(!converted.notes.concat().contains("secret") && !converted.notes.concat().contains("hunter2"));
    assert_eq!(secrets["aws-credentials"].string_data.as_ref().unwrap()["secretAccessKey"], "aws/secret+key=");
}

#[test]
fn each_variable_is_in_the_manifests_or_in_a_note() {
    let notes = convert(EVERYTHING, None).unwrap().notes.join("\n");
    for name in [
        "ONLY_HOST_IP",
        "AGE_LIMIT",
        "DIGITALOCEAN_MAX_SCALING",
        "DIGITALOCEAN_DISPLAY_NAME",
        "DIGITALOCEAN_PARIS_ENABLED",
        "HETZNER_DATACENTER",
        "VULTR_PLAN",
        "VULTR_REGION",
        "AZURE_ENABLED",
        "TZ",
    ] {
        assert!(notes.contains(name), "{name}: {notes}");
    }
}

#[rstest]
#[case("DIGITALOCEAN_ENABLED=True\nDIGITALOCEAN_ACCESS_TOKEN=t", &["digitalocean/default"])]
#[case("AWS_ENABLED=TRUE\nAWS_AMI=ami-01234567", &["aws/default"])]
#[case("GCP_ENABLED=true\nGCP_PROJECT=p\nGCP_SA_JSON=/key.json", &["gcp/default"])]
#[case("HETZNER_ENABLED=True\nHETZNER_ACCESS_TOKEN=t", &["hetzner/default"])]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=t\nVULTR_ENABLED_TOO=x", &["vultr/default"])]
#[case("VULTR_ENABLED=False\nVULTR_API_TOKEN=t\nVULTR_INSTANCE_A_ENABLED=True\nVULTR_INSTANCE_A_API_TOKEN=u", &["vultr/a"])]
#[case(
    "HETZNER_ENABLED=True\nHETZNER_API_TOKEN=t\nHETZNER_INSTANCE_US_EAST_ENABLED=True\nHETZNER_INSTANCE_US_EAST_API_TOKEN=u",
    &["hetzner/default", "hetzner/us-east"]
)]
#[case("docker run -d -p 8000:8000 \\\n  -e VULTR_ENABLED=True --env VULTR_API_TOKEN='t' \\\n --env=VULTR_REGION=\"ams\" some/image:1\n", &["vultr/default"])]
#[case("-e VULTR_ENABLED=True \\\n-e VULTR_API_TOKEN=t\n# end", &["vultr/default"])]
fn each_provider_becomes_a_pool(#[case] env: &str, #[case] expected: &[&str]) {
    assert_eq!(titles(&format!("{LOGIN}{env}")), expected);
}

#[test]
fn an_extra_instance_has_the_place_of_the_providers_own_but_not_its_size_or_token() {
    let env = "AWS_REGION=eu-north-1\nAWS_AMI=ami-01234567\nAWS_SIZE=m5.large\nAWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n\
               AWS_INSTANCE_TWO_ENABLED=True\nAWS_INSTANCE_TWO_MIN_SCALING=3";
    let converted = convert(&format!("{LOGIN}{env}"), None).unwrap();
    let (pools, _) = read(&converted);
    let [(pool, wish)] = pools.as_slice() else { unreachable!("{pools:?}") };
    let aws = pool.spec.aws.as_ref().unwrap();
    assert_eq!((aws.region.as_str(), aws.ami.as_str(), &aws.instance_type), ("eu-north-1", "ami-01234567", &None));
    assert_eq!((wish.min_scaling, &wish.credentials), (3, &None));
    let left = converted.notes.iter().find(|note| note.contains("AWS_ACCESS_KEY_ID,")).unwrap();
    assert!(left.contains("AWS_SIZE") && left.contains("AWS_SECRET_ACCESS_KEY") && !left.contains("AWS_REGION"), "{left}");
}

#[rstest]
#[case("AGE_LIMIT=0", "0s", None)]
#[case("AGE_LIMIT=1200", "20m", None)]
#[case("AGE_LIMIT=1199", "19m59s", Some("9m59s"))]
#[case("AGE_LIMIT=120", "2m", Some("1m"))]
fn a_short_age_limit_shortens_the_start(#[case] line: &str, #[case] age: &str, #[case] startup: Option<&str>) {
    let env = format!("{LOGIN}VULTR_ENABLED=True\nVULTR_API_TOKEN=t\n{line}");
    let spec = &read(&convert(&env, None).unwrap()).0[0].0.spec;
    assert_eq!(spec.age_limit.as_deref(), Some(age));
    assert_eq!(spec.health.as_ref().and_then(|health| health.startup_timeout.as_deref()), startup);
}

#[rstest]
#[case("", "DIGITALOCEAN_ENABLED, AWS_ENABLED", "nothing to convert")]
#[case("VULTR_ENABLED=True", "VULTR_API_TOKEN", "not set")]
#[case("VULTR_ENABLED=yes", "VULTR_ENABLED", "True or False")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=t\nVULTR_MIN_SCALING=s3cret", "VULTR_MIN_SCALING", "whole number")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=t\nVULTR_MIN_SCALING=5001", "VULTR_MIN_SCALING", "5000")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=t\nVULTR_OS_ID=0", "VULTR_OS_ID", "from 1")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=s3cret two", "VULTR_API_TOKEN", "without spaces")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=$(cat s3cret)", "VULTR_API_TOKEN", "reference")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN=\"s3cret", "VULTR_API_TOKEN", "closing")]
#[case("VULTR_ENABLED=True\nVULTR_API_TOKEN='s3cret' s3cret", "VULTR_API_TOKEN", "after the closing quote")]
#[case("VULTR_ENABLED=True\nVULTR_ENABLED=True", "VULTR_ENABLED", "twice")]
#[case("HETZNER_ENABLED=True\nHETZNER_API_TOKEN=s3cret\nHETZNER_ACCESS_TOKEN=t", "HETZNER_API_TOKEN", "keep one")]
#[case("AWS_ENABLED=True", "AWS_AMI", "region")]
#[case("AWS_ENABLED=True\nAWS_AMI=s3cret", "AWS_AMI", "ami-")]
#[case("AWS_ENABLED=True\nAWS_AMI=ami-01234567\nAWS_ACCESS_KEY_ID=s3cret", "AWS_SECRET_ACCESS_KEY", "other half")]
#[case("AWS_ENABLED=True\nAWS_AMI=ami-01234567\nAWS_SPOT=maybe", "AWS_SPOT", "True or False")]
#[case("GCP_ENABLED=True", "GCP_PROJECT", "not set")]
#[case("GCP_ENABLED=True\nGCP_PROJECT=p\nGCP_SERVICE_ACCOUNT_KEY=s3cret", "GCP_SERVICE_ACCOUNT_KEY", "JSON")]
#[case("VULTR_INSTANCE_DEFAULT_ENABLED=True", "VULTR_INSTANCE_DEFAULT_ENABLED", "rename")]
#[case("AGE_LIMIT=119", "AGE_LIMIT", "120")]
#[case("AGE_LIMIT=1h", "AGE_LIMIT", "whole number")]
#[case("ROLLING_BATCH_SIZE=0", "ROLLING_BATCH_SIZE", "from 1")]
#[case("ROLLING_DEPLOYMENT=1", "ROLLING_DEPLOYMENT", "True or False")]
#[case("one s3cret", "line 3", "NAME=VALUE")]
#[case("-e s3cret", "line 3", "without a value")]
#[case("docker run --env-file x y", "line 3", "env-file")]
fn an_error_names_the_variable_and_the_way_out(#[case] env: &str, #[case] variable: &str, #[case] word: &str) {
    let error = convert(&format!("{LOGIN}{env}"), None).unwrap_err();
    assert!(error.variable.starts_with(variable) && error.message.contains(word), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[rstest]
#[case("", "PROXY_USERNAME", "open to everybody")]
#[case("ONLY_HOST_IP=True", "PROXY_USERNAME", "open to everybody")]
#[case("PROXY_USERNAME=me", "PROXY_PASSWORD", "open to everybody")]
#[case("PROXY_USERNAME=changeme\nPROXY_PASSWORD=changeme", "PROXY_USERNAME", "everybody knows")]
#[case("PROXY_USERNAME=me\nPROXY_PASSWORD=changeme", "PROXY_PASSWORD", "everybody knows")]
#[case("PROXY_USERNAME=me\nPROXY_PASSWORD=s3cret", "PROXY_PASSWORD", "at least 8")]
#[case("PROXY_USERNAME=me\nPROXY_PASSWORD=s3cret-p@ss", "PROXY_PASSWORD", "letters, digits")]
fn without_a_login_there_are_no_proxies(#[case] login: &str, #[case] variable: &str, #[case] word: &str) {
    let error = convert(&format!("VULTR_ENABLED=True\nVULTR_API_TOKEN=t\n{login}"), None).unwrap_err();
    assert!(error.variable == variable && error.message.contains(word), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_taken_without_panic(text in "([A-Z_]{0,4}|=|\"|'|\\\\|\n| |#|-e|ä|docker ){0,30}") {
        let _ = convert(&text, None);
    }
}
