//! What the embedded store promises while nothing fails, and after damage.
