//! Where each provider's settings go.

use serde_json::{Map, Value, json};

use super::{ConvertError, Vars, error};

/// A provider of CloudProxy.
pub struct Cloud {
    /// What its variables begin with.
    pub prefix: &'static str,
    /// Its name in the spec.
    pub name: &'static str,
    /// Its settings, besides the numbers of proxies.
    pub settings: &'static [Setting],
    /// What to say of a pool that lacks a field of the block, or `credentials`.
    pub without: &'static [(&'static str, &'static str)],
}

/// One setting.
pub struct Setting {
    /// What its variables end with. The documents and the code of CloudProxy do not always agree.
    pub names: &'static [&'static str],
    /// What becomes of it.
    pub place: Place,
}

impl Setting {
    /// CloudProxy gives an extra instance what the provider's own has, but for size and credentials.
    pub fn is_inherited(&self) -> bool {
        !matches!(self.place, Place::Secret { .. } | Place::KeyFile { .. } | Place::Nowhere { .. }) && !self.names.contains(&"SIZE")
    }
}

/// What becomes of a setting.
#[derive(Clone, Copy)]
pub enum Place {
    /// A text of the block, of at most that many characters.
    Text { field: &'static str, longest: usize, begins: &'static str, unset: Unset },
    /// A number of the block.
    Number { field: &'static str },
    /// A list of the block, by commas.
    List { field: &'static str },
    /// A switch that asks for spot instances.
    Spot,
    /// A key of the Secret.
    Secret { key: &'static str, needed: bool },
    /// A file that holds a key of the Secret.
    KeyFile { key: &'static str },
    /// There is no such setting here.
    Nowhere { why: &'static str },
}

/// What a text is that nobody set.
#[derive(Clone, Copy)]
pub enum Unset {
    /// The operator knows one that is as good.
    Left,
    /// What CloudProxy takes.
    Is(&'static str),
    /// An error, with a way out.
    Refused(&'static str),
}

const fn text(field: &'static str, longest: usize, unset: Unset) -> Place {
    Place::Text { field, longest, begins: "", unset }
}

const fn setting(names: &'static [&'static str], place: Place) -> Setting {
    Setting { names, place }
}

const TOKEN: Place = Place::Secret { key: "token", needed: true };
const DISPLAY_NAME: Setting = setting(&["DISPLAY_NAME"], Place::Nowhere { why: "a pool is shown by provider and instance" });

/// All providers that CloudProxy has code for.
pub const CLOUDS: &[Cloud] = &[
    Cloud {
        prefix: "DIGITALOCEAN",
        name: "digitalocean",
        settings: &[
            setting(&["REGION"], text("region", 63, Unset::Is("lon1"))),
            setting(&["SIZE"], text("size", 63, Unset::Left)),
            setting(&["IMAGE"], text("image", 128, Unset::Left)),
            setting(&["ACCESS_TOKEN"], TOKEN),
            DISPLAY_NAME,
        ],
        without: &[],
    },
    Cloud {
        prefix: "AWS",
        name: "aws",
        settings: &[
            setting(&["REGION"], text("region", 63, Unset::Is("eu-west-2"))),
            setting(
                &["AMI"],
                Place::Text {
                    field: "ami",
                    longest: 63,
                    begins: "ami-",
                    unset: Unset::Refused("is not set, and an image is of one region only; name one of the Debian family"),
                },
            ),
            setting(&["SIZE"], text("instanceType", 63, Unset::Left)),
            setting(&["SUBNET_ID"], text("subnetId", 63, Unset::Left)),
            setting(&["SECURITY_GROUP"], Place::List { field: "securityGroupIds" }),
            setting(&["SPOT"], Place::Spot),
            setting(&["ACCESS_KEY_ID"], Place::Secret { key: "accessKeyId", needed: false }),
            setting(&["SECRET_ACCESS_KEY"], Place::Secret { key: "secretAccessKey", needed: false }),
            DISPLAY_NAME,
        ],
        without: &[
            ("securityGroupIds", "set aws.securityGroupIds to a group that lets port 8899 in; the default one lets in nobody"),
            ("credentials", "without AWS_ACCESS_KEY_ID the operator's own role is used"),
        ],
    },
    Cloud {
        prefix: "GCP",
        name: "gcp",
        settings: &[
            setting(&["PROJECT"], text("project", 63, Unset::Refused("is not set; gcp needs it"))),
            setting(&["ZONE"], text("zone", 63, Unset::Is("us-central1-a"))),
            setting(&["SIZE"], text("machineType", 63, Unset::Left)),
            setting(&["IMAGE_PROJECT"], text("imageProject", 63, Unset::Left)),
            setting(&["IMAGE_FAMILY"], text("imageFamily", 63, Unset::Left)),
            setting(&["SERVICE_ACCOUNT_KEY"], Place::Secret { key: "serviceAccountKey", needed: false }),
            setting(&["SA_JSON"], Place::KeyFile { key: "serviceAccountKey" }),
            DISPLAY_NAME,
        ],
        without: &[
            ("firewall", "the firewall of the network must let port 8899 in for the network tag aether-proxy"),
            ("credentials", "without GCP_SERVICE_ACCOUNT_KEY workload identity is used"),
        ],
    },
    Cloud {
        prefix: "HETZNER",
        name: "hetzner",
        settings: &[
            setting(&["LOCATION"], text("location", 63, Unset::Is("nbg1"))),
            setting(&["SIZE"], text("serverType", 63, Unset::Left)),
            setting(&["IMAGE"], text("image", 128, Unset::Left)),
            setting(&["ACCESS_TOKEN", "API_TOKEN"], TOKEN),
            setting(&["DATACENTER"], Place::Nowhere { why: "Hetzner no longer takes it; the location counts" }),
            DISPLAY_NAME,
        ],
        without: &[],
    },
    Cloud {
        prefix: "VULTR",
        name: "vultr",
        settings: &[
            setting(&["REGION"], text("region", 63, Unset::Is("ewr"))),
            setting(&["PLAN"], text("plan", 63, Unset::Left)),
            setting(&["OS_ID"], Place::Number { field: "osId" }),
            setting(&["API_TOKEN"], TOKEN),
            DISPLAY_NAME,
        ],
        without: &[],
    },
];

/// Puts a setting into the provider block.
pub fn fill(
    block: &mut Map<String, Value>,
    place: Place,
    variable: &str,
    value: Option<String>,
    vars: &mut Vars,
) -> Result<(), ConvertError> {
    let (field, value) = match (place, value) {
        (Place::Text { field, longest, begins, .. }, Some(value)) => {
            word(variable, &value, longest)?;
            if !value.starts_with(begins) {
                return error(variable, format!("must begin with {begins}"));
            }
            (field, json!(value))
        }
        (Place::Text { field, unset: Unset::Is(default), .. }, None) => {
            vars.note(format!("{variable} is not set: {default}, as CloudProxy takes it"));
            (field, json!(default))
        }
        (Place::Text { unset: Unset::Refused(why), .. }, None) => return error(variable, why),
        (Place::Number { field }, Some(value)) => match value.parse::<i32>() {
            Ok(number) if number >= 1 => (field, json!(number)),
            _ => return error(variable, "must be a whole number from 1 on"),
        },
        (Place::List { field }, Some(value)) => {
            let entries: Vec<&str> = value.split(',').map(str::trim).collect();
            for entry in &entries {
                word(variable, entry, 63)?;
            }
            if entries.len() > 16 {
                return error(variable, "has more than 16 entries");
            }
            (field, json!(entries))
        }
        (Place::Spot, Some(value)) => match value.to_ascii_lowercase().as_str() {
            "false" => return Ok(()),
            // Two words of CloudProxy's documents; here they are the same.
            "true" | "one-time" | "persistent" => ("spot", json!({})),
            _ => return error(variable, "must be True or False"),
        },
        _ => return Ok(()),
    };
    block.insert(field.into(), value);
    Ok(())
}

/// Names and ids of clouds are visible ASCII without spaces.
fn word(variable: &str, value: &str, longest: usize) -> Result<(), ConvertError> {
    if (1..=longest).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    error(variable, format!("must be 1 to {longest} visible characters without spaces"))
}

/// A credential that can be one.
pub fn check_secret(key: &str, variable: &str, value: &str) -> Result<(), ConvertError> {
    if key != "serviceAccountKey" {
        return word(variable, value, 4096);
    }
    let key: Option<Map<String, Value>> = serde_json::from_str(value).ok();
    if key.is_some_and(|key| key.contains_key("client_email") && key.contains_key("private_key")) {
        return Ok(());
    }
    error(variable, "must be the JSON of a service account's key, whole and in single quotes")
}
