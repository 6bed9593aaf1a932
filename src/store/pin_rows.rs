//! Pins that commands have set, as they are kept. They cannot be asked of anybody, so they outlive
//! what is known of images; with the file they are lost.

use super::database::{Database, Result};

impl Database {
    pub(super) fn pins(&self) -> Result<Vec<String>> {
        let mut select = self.connection().prepare_cached("SELECT line FROM pins ORDER BY nth")?;
        let lines = select.query_map([], |row| row.get(0))?;
        lines.collect()
    }

    pub(super) fn put_pins(&mut self, pins: &[(String, String)]) -> Result<()> {
        let put = "INSERT INTO pins (target, line, nth)
            VALUES (?1, ?2, (SELECT coalesce(max(nth), 0) + 1 FROM pins))
            ON CONFLICT DO UPDATE SET line = excluded.line";
        self.each_row(put, pins.iter().map(|(target, line)| [target, line]))
    }

    pub(super) fn drop_pins(&mut self, targets: &[String]) -> Result<()> {
        self.each_row("DELETE FROM pins WHERE target = ?1", targets.iter().map(|target| [target]))
    }
}
