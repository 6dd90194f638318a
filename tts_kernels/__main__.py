from tts_kernels.cli import main

main()
