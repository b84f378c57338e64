"""What each process of Dropout is put together from: beside ``cli`` the only place that knows adapters."""
