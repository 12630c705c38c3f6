//! What scripts say to the router, and what they get back when they say it wrongly.
