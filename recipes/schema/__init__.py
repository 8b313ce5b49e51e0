"""What a recipe may say: a file for each part that is not a library's own. Unknown keys are refused."""
