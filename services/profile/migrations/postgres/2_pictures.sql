-- The blob of the user's picture; null = none.
ALTER TABLE users ADD COLUMN picture uuid;
