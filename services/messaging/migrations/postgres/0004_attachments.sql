-- Pictures and videos of the message that is shown, and how many of them are videos.
ALTER TABLE inbox
    ADD COLUMN preview_attachment_count integer NOT NULL DEFAULT 0,
    ADD COLUMN preview_video_count integer NOT NULL DEFAULT 0;
