pub(in crate::pull) mod fill;
pub(in crate::pull) mod flight;
pub(in crate::pull) mod relay;
pub(in crate::pull) mod tail;
pub(in crate::pull) mod turns;
