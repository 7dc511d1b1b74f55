//! What higher layers keep for each loop: one value of each type, dropped when the loop ends.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

#[derive(Default)]
pub(crate) struct Locals {
    values: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl Locals {
    /// The value of this type, made by `default` at the first use.
    pub(crate) fn get<T: 'static>(&self, default: impl FnOnce() -> T) -> Rc<T> {
        let found = self.values.borrow().get(&TypeId::of::<T>()).cloned();
        let value = found.unwrap_or_else(|| {
            let fresh: Rc<dyn Any> = Rc::new(default());
            self.values.borrow_mut().insert(TypeId::of::<T>(), fresh.clone());
            fresh
        });
        value.downcast().expect("it is stored under its type")
    }

    /// All values, to be dropped when nothing is borrowed.
    pub(crate) fn take_all(&self) -> Vec<Rc<dyn Any>> {
        std::mem::take(&mut *self.values.borrow_mut()).into_values().collect()
    }
}
