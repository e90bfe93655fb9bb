"""Same request, same picture: random jobs drawn alone and in company, compared bit by bit."""
