pub async fn run(_s: &super::session::Session, _a: &super::args::Logs) -> Result<(), super::Failure> {
    Err(super::Failure::failed("not built yet"))
}
