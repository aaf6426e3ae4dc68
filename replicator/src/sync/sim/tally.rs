//! What happened in the worlds of a test: they prove nothing where nothing did.

use super::world::World;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    worlds: usize,
    splits: usize,
    /// Worlds in which several groups of a split changed something.
    diverged: usize,
    /// Contents that were to be in no tree.
    gone: usize,
}

impl Tally {
    pub fn with(mut self, world: &World) -> Self {
        self.worlds += 1;
        self.splits += world.splits.begun as usize;
        self.diverged += usize::from(world.splits.diverged > 0);
        // Nothing is asked of a world in which deletions were undone.
        self.gone += if world.has_restored { 0 } else { world.contents.gone().len() };
        self
    }

    /// Of a hundred worlds groups changed something in so many at least, and so
    /// many contents were gone in each. Fewer than `all` worlds say nothing.
    pub fn has(&self, all: usize, diverged: usize, gone: usize) {
        println!("{self:?}");
        let is_rich = self.diverged * 100 >= self.worlds * diverged;
        let is_rich = is_rich && self.gone >= self.worlds * gone;
        assert!(self.worlds < all || is_rich, "less happens than is to be tried: {self:?}");
    }
}
