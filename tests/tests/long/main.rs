//! Stories that take a minute or more, told beside each other: for most of it
//! they wait.

mod chaos;
mod watches;
