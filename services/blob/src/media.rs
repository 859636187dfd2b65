//! What content is, and what becomes of it: no bytes are believed.
