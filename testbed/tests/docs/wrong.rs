//! A page with something wrong in it fails, at the line where it stands.

use anyhow::ensure;
use testbed::bed::Bed;

use crate::page::Page;
use crate::{links, script};

/// A block that must not pass, and what is to be said of it.
const WRONG: [(&str, &str); 21] = [
    ("```python\nprint(1)\n```", "no test knows"),
    ("```\nkubectl get pods\n```", "no test knows"),
    ("```sh no-run\nfalse\n```", "why not"),
    ("```sh\ntrue\n", "never closed"),
    ("```sh\nfalse\ntrue\n```", "fails with"),
    ("```sh\nkubectl get nothings | cat\n```", "nothings"),
    ("<!-- sh\nfalse\n-->", "fails with"),
    ("```sh no-run\nkubectl get pods --wide\n```", "unknown flag"),
    ("```sh no-run\nkubectl fetch pods\n```", "unknown command"),
    ("```sh no-run\nTOKEN=$(aether update begin x 1)\n```", "begin"),
    ("```sh no-run\naether update routing web -r 1-3 | cat\n```", "1-3"),
    ("```sh no-run\naether-operator run --no-such-flag\n```", "no-such-flag"),
    ("```sh no-run\nmake everything-at-once\n```", "everything-at-once"),
    ("```sh no-run\nkubctl get pods\n```", "kubctl"),
    ("```sh no-run\nfor pod in one two; do echo x\n```", "syntax error"),
    (
        "```yaml\napiVersion: aether.dev/v1alpha1\nkind: RollingUpdate\nmetadata: {name: x}\nspec: {artifactBase: 'a:x', version: 1.0.0, colour: red}\n```",
        "colour",
    ),
    ("```yaml\napiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: x}\nspec: {analysis: {stepWeihgt: 1}}\n```", "stepWeihgt"),
    (
        "```yaml\napiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: x}\nspec: {strategy: {canary: {stepz: []}}}\n```",
        "stepz",
    ),
    ("```yaml RollingUpdate.spec\nprogression: {steps: ['1:1']}\n```", "the last step"),
    ("```yaml values\na: 1\n---\nb: 2\n```", "one document"),
    ("```json\n{\"a\": }\n```", "expected value"),
];

/// Every wrong block is found.
pub async fn is_told(bed: &Bed) -> anyhow::Result<()> {
    for (n, (text, wanted)) in WRONG.iter().enumerate() {
        let name = format!("wrong-{n}.md");
        let excuse = if *wanted == "why not" { "" } else { "<!-- Not run: it is wrong. -->" };
        let told = async { script::of(&Page::parse(name, &format!("# A page\n{excuse}\n{text}\n"))?)?.run(bed).await };
        match told.await {
            Ok(()) => anyhow::bail!("nobody minds {text}"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains(wanted) && said.contains(&format!("wrong-{n}.md:3")), "of {text:?} it is said: {said}");
            }
        }
    }
    let pages = [Page::parse(
        "docs/wrong.md".into(),
        "# A page\n\n[one](nowhere.md) [two](#a-page) [three](#another-page) [four](../README.md)\n",
    )?];
    let said = links::follow(&pages).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(said.contains("nowhere.md") && said.contains("#another-page") && said.lines().count() == 3, "{said}");
    Ok(())
}
