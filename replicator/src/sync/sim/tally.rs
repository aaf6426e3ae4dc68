//! What happened in the worlds of a test: they prove nothing where nothing did.

use super::world::World;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    worlds: usize,
    /// Contents that were to be in no tree.
    gone: usize,
}

impl Tally {
    pub fn with(mut self, world: &World) -> Self {
        self.worlds += 1;
        // Nothing is asked of a world in which deletions were undone.
        self.gone += if world.has_restored { 0 } else { world.contents.gone().len() };
        self
    }

    /// So many contents at least were gone in each world. Fewer than `all` worlds
    /// say nothing.
    pub fn has(&self, all: usize, gone: usize) {
        println!("{self:?}");
        let is_rich = self.gone >= self.worlds * gone;
        assert!(self.worlds < all || is_rich, "less happens than is to be tried: {self:?}");
    }
}
