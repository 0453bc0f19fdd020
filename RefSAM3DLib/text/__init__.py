"""What a user types and what it means: vocabulary, wording, prompts."""
