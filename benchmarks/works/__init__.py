"""What is measured: each work prepares itself and then runs round by round."""
