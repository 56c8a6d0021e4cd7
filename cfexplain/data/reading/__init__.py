"""Files of images: archives, idx files, pictures, and the caches they are decoded into."""
