"""Where the processes of a training meet, and how they are called."""
