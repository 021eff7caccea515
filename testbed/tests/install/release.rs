use std::sync::Arc;
use testbed::rig::Rig;
pub async fn the_life_of_a_release(_rig: &Arc<Rig>) -> anyhow::Result<()> { Ok(()) }
