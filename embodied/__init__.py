"""The ground floor: types, data, networks, losses, rewards, prompts, training, evaluation and policies."""
