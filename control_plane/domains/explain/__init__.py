"""Why a subscription got an event or did not."""
