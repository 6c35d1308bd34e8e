//! placeholder
wit_bindgen::generate!({
    path: "../host-abi/wit",
    world: "ipam-policy",
    pub_export_macro: true,
    default_bindings_module: "weft_sdk::bindings",
});
