//! The form of a query request: flat names such as `Filter.1.Value.2`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::knobs::Refusal;

/// What is left of a request's parameters.
#[derive(Clone, Debug, Default)]
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    pub fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The values of `NAME.1`, `NAME.2` and so on.
    pub fn take_list(&mut self, name: &str) -> Vec<String> {
        (1..).map_while(|index| self.take(&format!("{name}.{index}"))).collect()
    }

    /// Names and patterns of the filters.
    pub fn take_filters(&mut self) -> Vec<(String, Vec<String>)> {
        let filters = (1..).map_while(|index| {
            let name = self.take(&format!("Filter.{index}.Name"))?;
            Some((name, self.take_list(&format!("Filter.{index}.Value"))))
        });
        filters.collect()
    }

    /// The tags that things of this kind are to get.
    pub fn take_tags(&mut self, kind: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let specification = (1..)
            .map_while(|index| self.get(&format!("TagSpecification.{index}.ResourceType")).map(|found| (index, found == kind)))
            .find_map(|(index, is_it)| is_it.then_some(index));
        let mut tags = BTreeMap::new();
        let Some(specification) = specification else { return Ok(tags) };
        self.take(&format!("TagSpecification.{specification}.ResourceType"));
        for index in 1.. {
            let tag = format!("TagSpecification.{specification}.Tag.{index}");
            let Some(key) = self.take(&format!("{tag}.Key")) else { break };
            let value = self.take(&format!("{tag}.Value")).unwrap_or_default();
            if key.is_empty()
                || key.len() > 128
                || value.len() > 256
                || key.starts_with("aws:")
                || tags.insert(key.clone(), value).is_some()
            {
                return Err(Refusal::Invalid(format!("Tag {key} is not valid")));
            }
        }
        Ok(tags)
    }

    /// What nobody took.
    pub fn rest(&self) -> BTreeMap<String, Value> {
        let is_rest = |name: &str| !matches!(name, "Action" | "Version");
        self.0.iter().filter(|(name, _)| is_rest(name)).map(|(name, value)| (name.clone(), value.clone().into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_taken_apart() {
        let mut form = Form::parse(
            b"Action=X&Version=1&InstanceId.1=a&InstanceId.2=b&Filter.1.Name=tag%3Ak&Filter.1.Value.1=v&Filter.1.Value.2=w+x\
              &TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=no\
              &TagSpecification.2.ResourceType=instance&TagSpecification.2.Tag.1.Key=k&TagSpecification.2.Tag.1.Value=v&Other=1",
        );
        assert_eq!(form.take_list("InstanceId"), ["a", "b"]);
        assert_eq!(form.take_filters(), [("tag:k".to_owned(), vec!["v".to_owned(), "w x".to_owned()])]);
        assert_eq!(form.take_tags("instance"), Ok(BTreeMap::from([("k".to_owned(), "v".to_owned())])));
        let left: Vec<String> = form.rest().into_keys().collect();
        assert_eq!(left, ["Other", "TagSpecification.1.ResourceType", "TagSpecification.1.Tag.1.Key"]);
    }
}
