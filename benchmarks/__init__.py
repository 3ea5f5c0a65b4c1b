"""Programs that measure and attack; those in files of this folder are run as scripts."""
