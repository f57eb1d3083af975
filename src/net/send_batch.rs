//! The outbox: a list of outgoing datagrams whose memory outlives what the list borrows.

use super::Outgoing;

/// Lends the same empty list again and again, so that collecting a turn's datagrams allocates nothing.
///
/// A `Vec<Outgoing<'a>>` cannot simply be kept between turns, since what it borrows (the inbox) is written
/// anew in each; only its allocation can.
#[derive(Debug, Default)]
pub struct SendBatch {
    spare: Vec<Outgoing<'static>>,
}

impl SendBatch {
    /// An empty list, with the memory of the last one that was put [`back`](Self::put_back).
    pub fn take<'a>(&mut self) -> Vec<Outgoing<'a>> {
        std::mem::take(&mut self.spare)
    }

    /// Empties the list and keeps its memory.
    pub fn put_back(&mut self, mut list: Vec<Outgoing<'_>>) {
        list.clear();
        // Collecting a vector's own iterator into elements of the same layout reuses its allocation. The
        // standard library does so without promising it; `tests/allocation_server.rs` would show it ending.
        self.spare = list.into_iter().map_while(|_| None).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_list_is_used_again_and_its_content_is_not() {
        let mut outbox = SendBatch::default();
        let text = String::from("borrowed");
        let mut list = outbox.take();
        for _ in 0..100 {
            list.push(Outgoing { to: ([127, 0, 0, 1], 1).into(), from: None, parts: [text.as_bytes(), b"", b""] });
        }
        let memory = list.as_ptr() as usize;
        outbox.put_back(list);
        drop(text);
        let list = outbox.take();
        assert!(list.is_empty() && list.capacity() >= 100);
        assert_eq!(list.as_ptr() as usize, memory);
    }
}
