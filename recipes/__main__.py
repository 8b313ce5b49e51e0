from sharpen.recipes.cli import main

main()
