"""Did it keep its reasoning, and did it learn? Asked before and after, and answered with confidence."""
