//! The gateway's own numbers, from its admin port.

use serde_json::Value;

/// One reading of `/v1/stats`.
#[derive(Clone, Debug)]
pub struct Stats(Value);

impl Stats {
    /// Asks the gateway.
    pub fn read(admin: &str) -> Result<Self, String> {
        let url = format!("{}/v1/stats", admin.trim_end_matches('/'));
        let failed = |error: &dyn std::fmt::Display| {
            format!(
                "the admin port {admin} does not answer ({error}): name it with --admin, or start the gateway with `cargo run --release`"
            )
        };
        let mut answer = ureq::get(&url).call().map_err(|error| failed(&error))?;
        let text = answer.body_mut().read_to_string().map_err(|error| failed(&error))?;
        serde_json::from_str(&text).map(Self).map_err(|error| failed(&error))
    }

    /// A number by its path, such as `/process/resident_bytes`; 0 when there is none.
    pub fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A text by its path.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.0.pointer(pointer).and_then(Value::as_str)
    }

    /// A list by its path; an empty one when there is none.
    pub fn list(&self, pointer: &str) -> &[Value] {
        self.0.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Resident memory of the gateway's process, bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.number("/process/resident_bytes")
    }
}
