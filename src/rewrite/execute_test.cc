int placeholder_execute;
