pub async fn run(_s: &super::session::Session, _a: &super::args::Undeploy) -> Result<(), super::Failure> {
    Err(super::Failure::failed("not built yet"))
}
