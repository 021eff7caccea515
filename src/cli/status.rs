pub async fn run(_s: &super::session::Session) -> Result<(), super::Failure> {
    Err(super::Failure::failed("not built yet"))
}
