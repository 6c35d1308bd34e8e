pub(crate) fn tests(_root: bool) -> Vec<crate::Test> {
    Vec::new()
}
