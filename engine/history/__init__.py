"""What decisions were worth: labels by week, money, a draft against what was live, and the risk report."""
